// op_parts: what rows of ops on codes are put together from.
#pragma once

#include <optional>

#include "tests/frozen.h"
#include "tests/op_cases.h"
#include "tests/quant_params.h"

namespace vvtq::tests {

using Args = std::vector<autograd::Variable>;

/// A quantizer of a row: the places of its parameters among the row's inputs.
struct StepPlaces {
    engine::CodeRange range;
    size_t alpha;
    std::optional<size_t> beta;
    size_t g;

    autograd::QuantParams parameters(const Args& in) const;
    FrozenStep frozen(const Values& base, const Values& at) const;
};

/// A tensor of a row, behind its quantizer where it has one.
struct Operand {
    std::optional<size_t> place;
    std::optional<StepPlaces> step = {};

    autograd::Variable variable(const Args& in) const;
    autograd::Quantized quantized(const Args& in) const;
    /// What `quantized` stands for, frozen.
    Both frozen(const Values& base, const Values& at) const;
    /// Moves the tensor clear of the quantizer's kinks.
    void place_clear(Values& in) const;
};

/// The parameters of a quantizer that may not be there.
autograd::QuantParams parameters_of(const std::optional<StepPlaces>& step, const Args& in);
/// x behind a quantizer that may not be there.
Both behind(const std::optional<StepPlaces>& step, const Both& x, const Values& base, const Values& at);
/// The same for an op that returns codes.
std::vector<double> codes_behind(const std::optional<StepPlaces>& step, const Both& x, const Values& base,
                                 const Values& at);

/// Adds inputs to a row; each call gives the place of what it added.
class RowInputs {
  public:
    explicit RowInputs(OpCase& row) : row_(row) {}
    size_t add(const engine::Shape& shape, double scale, double offset = 0.0, bool differentiable = true);
    StepPlaces step(engine::CodeRange range, double alpha, std::optional<double> beta = {}, double g = 0.37);
    /// With a quantizer of this range and step.
    Operand operand(const engine::Shape& shape, double scale, engine::CodeRange range, double alpha,
                    std::optional<double> beta = {});
    Operand plain(const engine::Shape& shape, double scale, double offset = 0.0) {
        return {add(shape, scale, offset)};
    }

  private:
    OpCase& row_;
};

}  // namespace vvtq::tests
