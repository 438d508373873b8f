#include "tests/op_parts.h"

namespace vvtq::tests {

using autograd::Quantized;
using autograd::QuantParams;
using autograd::Variable;
using engine::CodeRange;
using engine::Shape;

QuantParams StepPlaces::parameters(const Args& in) const {
    return quant_params(in[alpha], beta ? in[*beta] : Variable(), range, in[g].value());
}

FrozenStep StepPlaces::frozen(const Values& base, const Values& at) const {
    FrozenStep step = frozen_step(range, base[alpha][0], at[alpha][0], base[g][0]);
    if (beta) {
        step.base_beta = base[*beta][0];
        step.beta = at[*beta][0];
    }
    return step;
}

Variable Operand::variable(const Args& in) const { return place ? in[*place] : Variable(); }

Quantized Operand::quantized(const Args& in) const {
    return step ? autograd::quantize(variable(in), step->parameters(in)) : Quantized(variable(in));
}

Both Operand::frozen(const Values& base, const Values& at) const {
    return place ? behind(step, {base[*place], at[*place]}, base, at) : Both{};
}

void Operand::place_clear(Values& in) const {
    if (step) clear_of_ties(in[*place], in[step->alpha][0], step->beta ? in[*step->beta][0] : 0.0);
}

QuantParams parameters_of(const std::optional<StepPlaces>& step, const Args& in) {
    return step ? step->parameters(in) : QuantParams{};
}

Both behind(const std::optional<StepPlaces>& step, const Both& x, const Values& base, const Values& at) {
    return step ? frozen_lsq(x, step->frozen(base, at)) : x;
}

std::vector<double> codes_behind(const std::optional<StepPlaces>& step, const Both& x, const Values& base,
                                 const Values& at) {
    return step ? frozen_codes(x.base, x.at, step->frozen(base, at)) : x.at;
}

size_t RowInputs::add(const Shape& shape, double scale, double offset, bool differentiable) {
    row_.inputs.push_back({shape, scale, offset, differentiable});
    return row_.inputs.size() - 1;
}

StepPlaces RowInputs::step(CodeRange range, double alpha, std::optional<double> beta, double g) {
    StepPlaces step{range, add({1}, 0.0, alpha), {}, 0};
    if (beta) step.beta = add({1}, 0.0, *beta);
    step.g = add({1}, 0.0, g, false);
    return step;
}

Operand RowInputs::operand(const Shape& shape, double scale, CodeRange range, double alpha,
                           std::optional<double> beta) {
    const size_t place = add(shape, scale, beta.value_or(0.0));
    return {place, step(range, alpha, beta)};
}

}  // namespace vvtq::tests
