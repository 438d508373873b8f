// Rows of quantizers with one step for each head.
#include "tests/op_parts.h"

namespace vvtq::tests {
namespace {

using engine::CodeRange;
using engine::Shape;

constexpr double kScale = 0.37;  // of the steps' gradients

/// `inner`: how many values of a head follow one another.
OpCase heads_case(const std::string& label, const Shape& shape, int64_t heads, int64_t inner,
                  CodeRange range) {
    OpCase row;
    row.op = "lsq";
    row.label = label;
    row.kernels = {"lsq", "lsq_backward"};
    row.inputs = {{shape, 0.6 * range.count() * 0.2, 0.5 * (range.low + range.high) * 0.2},
                  {{heads}, 0.05, 0.2},
                  {{1}, 0.0, kScale, false}};
    const auto head_of = [=](size_t i) {
        return static_cast<size_t>(static_cast<int64_t>(i) / inner % heads);
    };
    row.forward = [=](const Args& in) {
        return autograd::lsq(in[0], quant_params(in[1], {}, range, in[2].value(), inner));
    };
    row.place = [=](Values& in) {
        for (size_t i = 0; i < in[0].size(); ++i) {
            std::vector<double> one = {in[0][i]};
            clear_of_ties(one, in[1][head_of(i)]);
            in[0][i] = one[0];
        }
    };
    row.frozen = [=](const Values& base, const Values& at) {
        std::vector<double> y(at[0].size());
        for (size_t i = 0; i < y.size(); ++i) {
            const size_t h = head_of(i);
            const FrozenStep step = frozen_step(range, base[1][h], at[1][h], base[2][0]);
            y[i] = frozen_lsq({base[0][i]}, {at[0][i]}, step)[0];
        }
        return y;
    };
    return row;
}

}  // namespace

std::vector<OpCase> head_op_cases() {
    const CodeRange three = CodeRange::signed_bits(3), unsigned_four = CodeRange::unsigned_bits(4);
    return {
        heads_case("one", {1, 1}, 1, 1, three),
        heads_case("tokens", {2, 7, 24}, 3, 8, three),
        heads_case("scores", {2, 3, 7, 7}, 3, 49, unsigned_four),
        heads_case("rows of a weight", {12, 31}, 4, 93, three),
        heads_case("columns of a weight", {31, 12}, 4, 3, three),
    };
}

}  // namespace vvtq::tests
