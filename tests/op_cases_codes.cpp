// Rows of the ops that make codes, and of linear layers that multiply them.
#include "tests/op_parts.h"

namespace vvtq::tests {
namespace {

using autograd::Quantized;
using autograd::Variable;
using engine::CodeRange;
using engine::Shape;

OpCase quantize_case(const std::string& label, const Shape& shape, CodeRange range, double alpha,
                     std::optional<double> beta = {}) {
    OpCase row;
    row.op = "quantize";
    row.label = label;
    row.kernels = {"lsq_codes", "lsq_backward"};
    const double reach = 0.7 * range.count() * alpha, middle = 0.5 * (range.low + range.high) * alpha;
    RowInputs inputs(row);
    const size_t x = inputs.add(shape, reach, middle + beta.value_or(0.0));
    const Operand operand{x, inputs.step(range, alpha, beta)};
    row.forward = [operand](const Args& in) { return operand.quantized(in).q; };
    row.place = [operand](Values& in) { operand.place_clear(in); };
    row.frozen = [operand](const Values& base, const Values& at) {
        return codes_behind(operand.step, {base[*operand.place], at[*operand.place]}, base, at);
    };
    return row;
}

struct LinearParts {
    Operand x, w, bias;
};

/// `make` adds the inputs of a linear layer on K = cols of x.
template <typename Make>
OpCase linear_case(const std::string& label, int64_t k, Make&& make) {
    OpCase row;
    row.op = "linear";
    row.label = label;
    row.kernels = {"linear",    "linear_scale", "linear_backward_input", "linear_backward_weight",
                   "lsq_codes", "lsq_backward"};
    RowInputs inputs(row);
    const LinearParts parts = make(inputs);
    row.forward = [parts](const Args& in) {
        return autograd::linear(parts.x.quantized(in), parts.w.quantized(in), parts.bias.variable(in));
    };
    row.place = [parts](Values& in) {
        parts.x.place_clear(in);
        parts.w.place_clear(in);
    };
    row.frozen = [parts, k](const Values& base, const Values& at) {
        const Both x = parts.x.frozen(base, at), w = parts.w.frozen(base, at);
        return product(x, w, parts.bias.frozen(base, at), static_cast<size_t>(k)).at;
    };
    return row;
}

std::vector<OpCase> linear_cases() {
    const CodeRange four = CodeRange::signed_bits(4), unsigned_four = CodeRange::unsigned_bits(4);
    OpCase offset = linear_case("codes with an offset", 31, [&](RowInputs& in) -> LinearParts {
        return {in.operand({2, 7, 31}, 1.2, unsigned_four, 0.1, 0.33), in.operand({49, 31}, 0.7, four, 0.09),
                in.plain({49}, 0.5)};
    });
    offset.kernels.insert(offset.kernels.end(), {"accumulate_outer", "sum_rows"});
    return {
        linear_case("codes", 31,
                    [&](RowInputs& in) -> LinearParts {
                        return {in.operand({2, 7, 31}, 1.2, four, 0.14),
                                in.operand({49, 31}, 0.7, four, 0.09), in.plain({49}, 0.5)};
                    }),
        offset,
        linear_case("codes with an offset, no bias", 49,
                    [&](RowInputs& in) -> LinearParts {
                        return {in.operand({13, 49}, 1.2, unsigned_four, 0.1, -0.2),
                                in.operand({31, 49}, 0.7, four, 0.09),
                                {}};
                    }),
        linear_case("codes with an offset, plain weight", 49,
                    [&](RowInputs& in) -> LinearParts {
                        return {in.operand({13, 49}, 1.2, unsigned_four, 0.1, -0.2), in.plain({31, 49}, 0.7),
                                in.plain({31}, 0.5)};
                    }),
        linear_case("codes of x alone", 31,
                    [&](RowInputs& in) -> LinearParts {
                        return {in.operand({14, 31}, 1.2, four, 0.14), in.plain({49, 31}, 0.7), {}};
                    }),
        linear_case(
            "codes of w alone", 31,
            [&](RowInputs& in) -> LinearParts {
                return {in.plain({14, 31}, 1.2), in.operand({49, 31}, 0.7, four, 0.09), in.plain({49}, 0.5)};
            }),
        linear_case("one code", 1,
                    [&](RowInputs& in) -> LinearParts {
                        return {in.operand({1, 1}, 0.4, four, 0.1), in.operand({1, 1}, 0.3, four, 0.09),
                                in.plain({1}, 0.5)};
                    }),
    };
}

/// Two weights of one number of elements; what is returned is s1 q1 + s2 q2, plus the regularizer.
OpCase weights_case(const std::string& label, int bits, bool regularize, const Shape& shape = {12, 20},
                    const Shape& second_shape = {6, 2, 4, 5}) {
    const CodeRange first = CodeRange::signed_bits(bits), second = CodeRange::signed_bits(8);
    OpCase row;
    row.op = "quantize_weights";
    row.label = label;
    row.kernels = {"quantize_weights", "quantize_weights_backward", "sum"};
    const double alpha = 0.9 / first.count();
    row.inputs = {{shape, 0.7}, {{1}, 0.0, alpha}, {second_shape, 0.4}, {{1}, 0.0, 0.0025}};
    row.forward = [=](const Args& in) {
        const auto quantized =
            autograd::quantize_weights({{in[0], quant_params(in[1], {}, first), first.count()},
                                        {in[2], quant_params(in[3], {}, second), second.count()}},
                                       in[0].value().dtype(), regularize);
        const Variable a = autograd::reshape(quantized.weights[0].q, {shape.numel()});
        const Variable b = autograd::reshape(quantized.weights[1].q, {shape.numel()});
        const Variable codes = autograd::add(autograd::scale(a, 0.7), autograd::scale(b, -0.05));
        return regularize ? autograd::add_broadcast(codes, quantized.regularizer) : codes;
    };
    row.place = [](Values& in) {
        clear_of_ties(in[0], in[1][0]);
        clear_of_ties(in[2], in[3][0]);
    };
    row.frozen = [=](const Values& base, const Values& at) {
        const auto step = [&](size_t w, CodeRange range) {
            return frozen_step(range, base[w + 1][0], at[w + 1][0], weight_grad_scale(base[w], range));
        };
        const FrozenStep a = step(0, first), b = step(2, second);
        std::vector<double> y = frozen_codes(base[0], at[0], a);
        const std::vector<double> other = frozen_codes(base[2], at[2], b);
        const double term =
            regularize ? frozen_bin_regularizer(base[0], at[0], a) + frozen_bin_regularizer(base[2], at[2], b)
                       : 0.0;
        for (size_t i = 0; i < y.size(); ++i) y[i] = 0.7 * y[i] - 0.05 * other[i] + term;
        return y;
    };
    return row;
}

}  // namespace

std::vector<OpCase> code_op_cases() {
    std::vector<OpCase> rows = linear_cases();
    rows.insert(rows.end(),
                {quantize_case("2 bits", {12, 20}, CodeRange::signed_bits(2), 0.4),
                 quantize_case("4 bits, tokens", {2, 49, 197}, CodeRange::signed_bits(4), 0.15),
                 quantize_case("8 bits", {31, 49}, CodeRange::signed_bits(8), 0.02),
                 quantize_case("4 bits with offset", {31, 49}, CodeRange::unsigned_bits(4), 0.1, -0.11),
                 weights_case("3 and 8 bits", 3, false), weights_case("2 and 8 bits, regularized", 2, true),
                 weights_case("4 and 8 bits, regularized", 4, true),
                 weights_case("3 and 8 bits, odd", 3, true, {31, 49}, {49, 31}),
                 weights_case("4 and 8 bits, several chunks", 4, true, {130, 130}, {13, 10, 13, 10})});
    return rows;
}

}  // namespace vvtq::tests
