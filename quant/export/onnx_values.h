// onnx_values: what the variables of a forward pass are in the graph, and products of them.
#pragma once

#include "autograd/ops.h"
#include "autograd/trace.h"
#include "quant/export/onnx_quantize.h"

namespace vvtq::quant {

/// A tensor that depends on the pictures. Its quantizer is applied where the value is used, so that
/// reordering stands before it and a product right behind it.
struct OnnxValue {
    std::string name;  // before the quantizer
    engine::Shape shape;
    engine::QuantParams quantizer = {};
    std::optional<engine::Convolution> windows = {};  // its 3 x 3 surroundings (autograd::unfold) are meant
};

class OnnxValues {
  public:
    OnnxValues(OnnxGraph& graph, OnnxStyle style) : graph_(graph), style_(style) {}

    void set(const autograd::Variable& variable, OnnxValue value);
    void set_weight(const autograd::Variable& variable, OnnxWeight weight);
    /// Null where it does not depend on the pictures.
    const OnnxValue* find(const autograd::Variable& variable) const;
    /// Null where no quantizer made it.
    const OnnxWeight* find_weight(const autograd::Variable& variable) const;
    /// The value; throws Error(Fault::internal) where there is none.
    const OnnxValue& at(const autograd::Variable& variable) const;

    /// The name of the value behind its quantizer; a constant's name where it does not depend on the
    /// pictures.
    std::string name(const autograd::Variable& variable);
    std::string name(const OnnxValue& value);

    /// y (..., O) = x W^T + bias, or the convolution of x's surroundings; weight and bias are constants.
    OnnxValue linear(const OnnxValue& x, const autograd::Variable& weight, const autograd::Variable& bias);
    OnnxValue convolution(const OnnxValue& x, const engine::Convolution& shape, OnnxWeight weight,
                          int64_t groups, const autograd::Variable& bias);
    /// q k^T (B, H, N, N) and p v (B, N, H D) of autograd::attention_scores and attention_apply.
    OnnxValue scores(const OnnxValue& q, const OnnxValue& k, int64_t heads);
    OnnxValue apply(const OnnxValue& p, const OnnxValue& v);
    /// softmax(s z + bias + mask); bias (H, N, N), a name or empty, mask (W, N, N) or undefined.
    OnnxValue softmax(const OnnxValue& z, double s, const std::string& bias, const engine::Tensor& mask);
    OnnxValue gather_tokens(const OnnxValue& x, const engine::Tensor& index);
    OnnxValue reshape(const OnnxValue& x, const engine::Shape& shape);

  private:
    OnnxWeight weight_of(const autograd::Variable& variable) const;
    /// The operand of a product, without its offset and its several steps.
    std::string operand(const OnnxValue& x);
    /// a b of (B, H, ...), where a step may belong to each h.
    std::string product(const OnnxValue& a, const OnnxValue& b);
    /// x (B, N, H D) -> (B, H, N, D), or (B, H, D, N) where `turned`.
    OnnxValue heads_of(const OnnxValue& x, int64_t heads, bool turned);

    OnnxGraph& graph_;
    OnnxStyle style_;
    std::map<const void*, OnnxValue> values_;
    std::map<const void*, OnnxWeight> weights_;
    std::vector<autograd::Variable> kept_;          // so that their ids stay theirs
    std::map<std::string, std::string> quantized_;  // what was quantized already
};

}  // namespace vvtq::quant
