// onnx_model: an ONNX model (onnx.ai) as plain values, which apps/commands/onnx_file.h writes.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace vvtq::quant {

/// Element types by their numbers in ONNX.
enum class OnnxType {
    f32 = 1,
    u8 = 2,
    i8 = 3,
    i64 = 7,
    u4 = 21,  // from operator set 21 on
    i4 = 22,
    u2 = 25,  // from operator set 25 on
    i2 = 26,
};

struct OnnxTensor {
    std::string name;
    OnnxType type;
    std::vector<int64_t> shape;
    std::vector<uint8_t>
        bytes;  // elements in row-major order; of 4 or 2 bits several in a byte, the first lowest
};

using OnnxAttribute = std::variant<int64_t, float, std::vector<int64_t>>;

struct OnnxNode {
    std::string op, name;
    std::vector<std::string> inputs, outputs;
    std::map<std::string, OnnxAttribute> attributes;
};

/// An input or output of the whole model; its first dimension is any number of pictures.
struct OnnxPort {
    std::string name;
    OnnxType type;
    std::vector<int64_t> shape;  // without the first dimension
};

struct OnnxModel {
    int opset = 0;
    OnnxPort input, output;
    std::vector<OnnxTensor> constants;
    std::vector<OnnxNode> nodes;  // each behind those whose outputs it takes
};

}  // namespace vvtq::quant
