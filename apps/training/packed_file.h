// packed_file: a quantized model with the codes of its weights in as few bits as they have
// (docs/packed_format.md). It is read wherever a checkpoint is.
#pragma once

#include <map>
#include <string>

#include "apps/training/checkpoint_info.h"
#include "data/state_file.h"

namespace vvtq::apps {

/// Which type the file has for what is not packed.
enum class PackedFloats { f32, f16 };

/// Writes the model, whose parameters are f32 and on the CPU: codes of the weights; steps, offsets, biases
/// and the rest as floats. Running statistics of batch normalizations stay f32. Throws Error(Fault::input)
/// where no weight is quantized, where F16 cannot hold a value, and where the file cannot be written.
void save_packed(const std::string& path, const CheckpointInfo& info, nn::Model& model, PackedFloats floats);

/// Whether a file's metadata was written by save_packed.
bool is_packed(const std::map<std::string, std::string>& metadata);

/// Makes the tensors and the metadata of a packed file those of the checkpoint that it stands for; weights
/// become step times code. Throws Error(Fault::input) naming `path` where its tables do not fit its tensors.
void unpack(data::StateFile& file, const std::string& path);

}  // namespace vvtq::apps
