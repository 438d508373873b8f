// onnx_file: writes an ONNX model as its protocol buffer.
#pragma once

#include <map>
#include <string>

#include "quant/export/onnx_model.h"

namespace vvtq::apps {

/// Throws Error(Fault::input) saying what to install where this build cannot write ONNX.
void require_onnx(const std::string& path);

/// Writes the model atomically (data::AtomicFile); `metadata` becomes its metadata_props. Throws
/// Error(Fault::input) as require_onnx does, where the file would be larger than 2 GiB, the most that a
/// protocol buffer can be, or cannot be written.
void write_onnx(const std::string& path, const quant::OnnxModel& model,
                const std::map<std::string, std::string>& metadata);

}  // namespace vvtq::apps
