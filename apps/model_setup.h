// model_setup: from flags, and a checkpoint where there is one, to a device, a precision and a model.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "apps/options.h"
#include "nn/model.h"

namespace vvtq::apps {

/// --device; `auto` takes what this build has. Throws Error(Fault::input) where it is not there.
engine::Device pick_device(const RunFlags& run);

/// --precision.
engine::DType pick_dtype(const RunFlags& run);

/// The sizes of the model: those of the checkpoint (`saved`, in the file `path`), else the published ones of
/// --model with the flags' changes. `classes` is the data set's class count, 0 without a data set. Throws
/// Error(Fault::input) naming flags that contradict the checkpoint, and a class count that does not fit.
nn::ModelConfig resolve_config(const Options& options, const std::optional<nn::ModelConfig>& saved,
                               const std::string& path, int64_t classes);

/// Whether the bit widths ask for quantizers that follow them.
bool has_low_bits(const QuantizerFlags& quantizer);

/// Attaches the quantizers of `vvtq train` to a model.
void attach_quantizers(nn::Model& model, const QuantizerFlags& quantizer);

}  // namespace vvtq::apps
