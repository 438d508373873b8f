// model_setup: from flags, and a checkpoint where there is one, to a device, a precision and a model.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "apps/options/options.h"
#include "apps/training/checkpoint.h"
#include "apps/training/compute.h"
#include "data/dataset.h"
#include "nn/model.h"

namespace vvtq::apps {

/// --device, --precision and --gpu. `auto` takes the GPU where there is one, and there bf16, else f32. Writes
/// the choices into the flags. Throws Error(Fault::input) where the device is not there or cannot compute so.
Compute pick_compute(RunFlags& run);

/// Once there is a model that is not trained: settles Integer::where_possible, and writes int8 into the flags
/// where it is taken. Throws Error(Fault::input) where int8 was asked of a model that is not quantized.
void settle_integer(RunFlags& run, nn::Model& model, Compute& compute);
/// Throws Error(Fault::input) for --precision int8, for commands that train.
void refuse_integer(const RunFlags& run);

/// The sizes of the model: those that the checkpoint records where there is one, else the published ones of
/// --model with the flags' changes. `classes` is the data set's class count, 0 without a data set. Throws
/// Error(Fault::input) naming flags that contradict the checkpoint with the tensors that differ, and a class
/// count that does not fit. Where it `adapts`, picture size, window size and classes may be others than the
/// checkpoint's.
nn::ModelConfig resolve_config(const Options& options, const Checkpoint* checkpoint, int64_t classes,
                               bool adapts = false);

/// nn::make_model in the precision and on the device of `compute`.
std::unique_ptr<nn::Model> make_model(const nn::ModelConfig& config, const Compute& compute, uint64_t seed);

/// What a file says of a quantized model of which no checkpoint tells: its sizes and bit widths.
CheckpointInfo quantized_info(const nn::Model& model, const QuantizerFlags& quantizer);

/// The bit widths of a quantized model. Throws Error(Fault::input) naming `path` where they are not recorded.
QuantizerFlags quantizer_flags(const CheckpointInfo& info, const std::string& path);

/// Takes --wbits and --abits from the `nbits` of a published quantized file, where they are not given. Throws
/// Error(Fault::input) where the file has steps and does not say their widths.
void adopt_stored_bits(Options& options, const Checkpoint& checkpoint, nn::Model& model);

/// The sizes of the model that `load_model` makes.
nn::ModelConfig loaded_config(const Options& options, const Checkpoint& checkpoint, int64_t classes);

/// The model of a checkpoint in evaluation mode, with its quantizers. Sizes and bit widths that the file does
/// not record come from the flags. `classes` is the data set's class count, 0 without one: then a file of
/// another program decides. What was converted is added to `notes`. Throws Error(Fault::input) where the file
/// does not fit. With `codes` the weights of a packed file stay integer codes where all products can be
/// integer (LoadRules::codes).
std::unique_ptr<nn::Model> load_model(Options& options, const Checkpoint& checkpoint, int64_t classes,
                                      const Compute& compute, std::vector<std::string>& notes,
                                      bool codes = false);

inline constexpr const char* kCentralCrop = "0.875";  // 224 of 256

/// How the checkpoint's run cut pictures for its evaluations ("whole", or the share of the shorter side that
/// is kept); where it does not say, centrally.
std::string picture_crop(const Checkpoint& checkpoint);

/// A line for the log where the data set's classes are not those that the checkpoint's model was trained for;
/// else, and where the checkpoint does not say, empty.
std::string other_classes_warning(const Checkpoint& checkpoint, const data::Dataset& dataset);

/// "W4A4", or "W4A4 with widths by name"; 32 stands for floats.
std::string bits_text(const QuantizerFlags& quantizer);

/// Throws Error(Fault::input) naming the first tensor of the file `path`, now in `model`, with values that
/// are not finite.
void require_finite(const nn::Model& model, const std::string& path);

/// How many values its parameters have.
int64_t parameter_count(const nn::Model& model);

/// Attaches the quantizers of `vvtq train` to a model.
void attach_quantizers(nn::Model& model, const QuantizerFlags& quantizer);

}  // namespace vvtq::apps
