// The quantizers' rows of the op table.
#include <cmath>

#include "tests/frozen.h"
#include "tests/op_cases.h"
#include "tests/quant_params.h"

namespace vvtq::tests {
namespace {

using autograd::Variable;
using engine::CodeRange;
using engine::Shape;
using Args = std::vector<Variable>;

/// The step of a row whose inputs are x, alpha, beta (at its place, or -1) and at the end g.
FrozenStep step_of(const Values& base, const Values& at, CodeRange range, int beta) {
    FrozenStep step = frozen_step(range, base[1][0], at[1][0], base.back()[0]);
    if (beta >= 0) {
        step.base_beta = base[static_cast<size_t>(beta)][0];
        step.beta = at[static_cast<size_t>(beta)][0];
    }
    return step;
}

OpCase lsq_case(const std::string& label, const Shape& shape, CodeRange range, double step, bool offset) {
    OpCase row;
    row.op = "lsq";
    row.label = label;
    row.kernels = {"lsq", "lsq_backward"};
    // values reach beyond both ends of the range
    const double middle = 0.5 * (range.low + range.high) * step - (offset ? 0.11 : 0.0);
    row.inputs = {{shape, 0.7 * range.count() * step, middle}, {{1}, 0.0, step}};
    if (offset) {
        row.inputs.push_back({{1}, 0.0, -0.11});
    }
    row.inputs.push_back({{1}, 0.0, 0.37, false});  // g
    row.forward = [range, offset](const Args& in) {
        return autograd::lsq(in[0],
                             quant_params(in[1], offset ? in[2] : Variable(), range, in.back().value()));
    };
    row.place = [offset](Values& in) { clear_of_ties(in[0], in[1][0], offset ? in[2][0] : 0.0); };
    row.frozen = [range, offset](const Values& base, const Values& at) {
        return frozen_lsq(base[0], at[0], step_of(base, at, range, offset ? 2 : -1));
    };
    return row;
}

/// s sign(x) with s and sign frozen, plus x's move where |x| <= 1.
std::vector<double> frozen_binary(const Values& base, const Values& at, const Shape& shape, bool per_column) {
    const auto batch = static_cast<size_t>(shape[0]);
    const auto rows = static_cast<size_t>(shape[1]);
    const auto cols = static_cast<size_t>(shape[2]);
    const std::vector<double>& x = base[0];
    std::vector<double> y(x.size());
    for (size_t b = 0; b < batch; ++b) {
        std::vector<double> s(cols, 0.0);
        for (size_t i = 0; i < rows * cols; ++i) {
            s[i % cols] += std::abs(x[b * rows * cols + i]) / static_cast<double>(rows);
        }
        double mean = 0;
        for (const double column : s) {
            mean += column / static_cast<double>(cols);
        }
        for (size_t i = b * rows * cols; i < (b + 1) * rows * cols; ++i) {
            y[i] = std::copysign(per_column ? s[i % cols] : mean, x[i]) +
                   (std::abs(x[i]) <= 1 ? at[0][i] - x[i] : 0);
        }
    }
    return y;
}

OpCase binary_case(const std::string& label, const Shape& shape, bool per_column) {
    OpCase row;
    row.op = "binary";
    row.label = label;
    row.kernels = {"binary_scale", "binary", "binary_backward"};
    row.inputs = {{shape, 1.6}};
    row.forward = [shape, per_column](const Args& in) {
        return autograd::binary(in[0], per_column ? Shape({shape[0], shape[2]}) : Shape({shape[0]}));
    };
    row.place = [](Values& in) { clear_of_ties(in[0], 1.0, 0.0); };
    row.frozen = [shape, per_column](const Values& base, const Values& at) {
        return frozen_binary(base, at, shape, per_column);
    };
    return row;
}

}  // namespace

std::vector<OpCase> quantizer_op_cases() {
    return {
        lsq_case("2 bits", {12, 20}, CodeRange::signed_bits(2), 0.4, false),
        lsq_case("3 bits", {31, 49}, CodeRange::signed_bits(3), 0.3, false),
        lsq_case("4 bits, tokens", {2, 49, 197}, CodeRange::signed_bits(4), 0.15, false),
        lsq_case("8 bits", {31, 49}, CodeRange::signed_bits(8), 0.02, false),
        lsq_case("2 bits unsigned", {31, 49}, CodeRange::unsigned_bits(2), 0.4, false),
        lsq_case("4 bits unsigned, attention", {2, 1, 197, 197}, CodeRange::unsigned_bits(4), 0.06, false),
        lsq_case("2 bits with offset", {31, 49}, CodeRange::unsigned_bits(2), 0.4, true),
        lsq_case("4 bits with offset, tokens", {2, 49, 197}, CodeRange::unsigned_bits(4), 0.1, true),
        binary_case("a scale per sample", {2, 5, 20}, false),
        binary_case("weight", {1, 49, 197}, false),
        binary_case("a scale per column", {3, 31, 49}, true),
        binary_case("large", {2, 197, 49}, true),
    };
}

}  // namespace vvtq::tests
