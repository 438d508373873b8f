// onnx_graph: an ONNX model while it grows, node by node.
#pragma once

#include <optional>

#include "engine/tensor.h"
#include "quant/export/onnx_model.h"

namespace vvtq::quant {

class OnnxGraph {
  public:
    using Attributes = std::map<std::string, OnnxAttribute>;

    OnnxGraph();

    /// The layer that following nodes are named after: "blocks.0.attn".
    void enter(const std::string& layer) { layer_ = layer; }

    /// Adds a node and returns the name of its output.
    std::string add(const std::string& op, std::vector<std::string> inputs, Attributes attributes = {});

    /// Constants; equal ones are stored once. Of f32 or f64, written as f32.
    std::string constant(const engine::Tensor& values);
    std::string constant(const engine::Tensor& values, const std::vector<int64_t>& shape);
    std::string constant(const std::vector<float>& values, const std::vector<int64_t>& shape);
    std::string scalar(float value) { return constant(std::vector<float>{value}, {}); }
    std::string integers(const std::vector<int64_t>& values);
    std::string integers(const std::vector<int64_t>& values, const std::vector<int64_t>& shape);
    /// Codes as an integer type; throws Error(Fault::internal) where one does not fit.
    std::string codes(const std::vector<int>& values, OnnxType type, const std::vector<int64_t>& shape);

    /// x (..., shape), any number of rows.
    std::string reshape(const std::string& x, std::vector<int64_t> behind_first);
    std::string transpose(const std::string& x, const std::vector<int64_t>& order) {
        return add("Transpose", {x}, {{"perm", order}});
    }

    /// The lowest operator set that has all types and ops in use.
    int lowest_opset() const { return lowest_opset_; }
    OnnxModel& model() { return model_; }

  private:
    void need_opset(int opset) { lowest_opset_ = std::max(lowest_opset_, opset); }
    std::string store(OnnxType type, const std::vector<int64_t>& shape, std::vector<uint8_t> bytes);

    OnnxModel model_;
    std::string layer_;
    int lowest_opset_;
    std::map<std::string, int> names_;        // how often each was asked for
    std::multimap<uint64_t, size_t> stored_;  // constants by the hash of their bytes
};

/// Bits of an element.
int bits_of(OnnxType type);

}  // namespace vvtq::quant
