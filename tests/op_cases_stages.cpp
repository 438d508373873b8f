// Rows of the ops that models with stages need beside the passes of a block.
#include "tests/golden_inputs.h"
#include "tests/op_parts.h"

namespace vvtq::tests {
namespace {

using autograd::Quantized;
using autograd::TokenOrder;
using autograd::Variable;
using engine::CodeRange;
using engine::Convolution;
using engine::DType;
using engine::Shape;
using engine::Tensor;

Tensor integers(const std::vector<int64_t>& values, const Shape& shape, engine::Device device) {
    return Tensor::from({values.begin(), values.end()}, shape, DType::i32, device);
}

TokenOrder some_order(int64_t tokens, engine::Device device) {
    const std::vector<int64_t> index = permutation(tokens);
    std::vector<int64_t> inverse(index.size());
    for (size_t i = 0; i < index.size(); ++i) {
        inverse[static_cast<size_t>(index[i])] = static_cast<int64_t>(i);
    }
    return {integers(index, {tokens}, device), integers(inverse, {tokens}, device)};
}

std::vector<OpCase> order_cases() {
    const auto gather = [](const Args& in) {
        return autograd::gather_tokens(in[0], some_order(in[0].shape()[1], in[0].value().device()));
    };
    const auto mean = [](const Args& in) { return autograd::mean_tokens(in[0]); };
    const auto transpose = [](const Args& in) { return autograd::transpose(in[0]); };
    const auto table = [](int64_t tokens) {
        return [tokens](const Args& in) {
            std::vector<int64_t> index;
            for (int64_t i = 0; i < tokens * tokens; ++i) index.push_back(7 * i % in[0].shape()[0]);
            return autograd::table_bias(in[0], integers(index, {tokens, tokens}, in[0].value().device()));
        };
    };
    const std::vector<std::string> means = {"mean_tokens", "spread_token"},
                                   tables = {"table_bias", "table_bias_backward"};
    return {
        {"gather_tokens", "one", {"gather_tokens"}, {{{1, 1, 1}}}, gather},
        {"gather_tokens", "49", {"gather_tokens"}, {{{3, 49, 32}}}, gather},
        {"gather_tokens", "197", {"gather_tokens"}, {{{2, 197, 31}}}, gather},
        {"mean_tokens", "one", means, {{{1, 1, 1}}}, mean},
        {"mean_tokens", "49", means, {{{5, 49, 31}, 1.0, 0.3}}, mean},
        {"mean_tokens", "197", means, {{{2, 197, 48}, 1.0, 0.3}}, mean},
        {"transpose", "one", {"transpose"}, {{{1, 1}}}, transpose},
        {"transpose", "31 by 197", {"transpose"}, {{{31, 197}}}, transpose},
        {"table_bias", "one", tables, {{{1, 1}}}, table(1)},
        {"table_bias", "25 entries", tables, {{{25, 3}}}, table(9)},
    };
}

std::vector<OpCase> score_cases() {
    const std::vector<std::string> kernels = {"biased_softmax", "softmax_backward", "sum_rows"};
    const auto both = [](const Args& in) {
        return autograd::biased_softmax(in[0], 0.5, in[1], in[2].value());
    };
    const auto bias = [](const Args& in) { return autograd::biased_softmax(in[0], 0.5, in[1], {}); };
    const auto mask = [](const Args& in) { return autograd::biased_softmax(in[0], 0.5, {}, in[1].value()); };
    return {
        {"biased_softmax", "bias", kernels, {{{2, 3, 7, 7}, 4.0}, {{3, 7, 7}, 2.0}}, bias},
        {"biased_softmax",
         "mask",
         {"biased_softmax", "softmax_backward"},
         {{{4, 1, 31, 31}, 4.0}, {{2, 31, 31}, 3.0, 0.0, false}},
         mask},
        {"biased_softmax",
         "both",
         kernels,
         {{{6, 2, 49, 49}, 4.0}, {{2, 49, 49}, 2.0}, {{3, 49, 49}, 3.0, 0.0, false}},
         both},
    };
}

std::vector<OpCase> sum_and_norm_cases() {
    const std::vector<std::string> sums = {"weighted_sum", "weighted_sum_backward"};
    const auto sum = [](const Args& in) { return autograd::weighted_sum(in[0], in[1], {}, in[2], in[3]); };
    const auto kept = [](const Args& in) {
        return autograd::weighted_sum(in[0], in[1], in[4].value(), in[2], in[3]);
    };
    const auto norm = [](bool training) {
        return [training](const Args& in) {
            const Tensor& like = in[1].value();
            const Shape channels = like.shape();
            const autograd::RunningMoments running{Tensor::full(channels, 0.1, like.dtype(), like.device()),
                                                   Tensor::full(channels, 0.4, like.dtype(), like.device()),
                                                   Tensor::zeros({1}, like.dtype(), like.device())};
            return autograd::batch_norm_relu(in[0], in[1], in[2], 1e-5, running, training, nullptr);
        };
    };
    // columns that ReLU lets through and columns that it does not: no value comes near its kink
    const auto clear_of_kink = [](Values& in) {
        for (size_t c = 0; c < in[2].size(); ++c) in[2][c] = (c % 3 == 1 ? -4.0 : 4.0) + 0.1 * in[2][c];
    };
    const auto norm_inputs = [](const Shape& x) -> std::vector<Input> {
        return {{x, 1.0, 0.4}, {{x.cols()}, 0.3, 1.0}, {{x.cols()}}};
    };
    const std::vector<std::string> passes = {"batch_norm_relu", "batch_norm_relu_sums",
                                             "batch_norm_relu_backward"};
    std::vector<std::string> training = passes;
    training.insert(training.end(), {"column_moments", "update_running_stats"});
    return {
        {"weighted_sum", "one", sums, {{{1, 1}}, {{1, 1}}, {{1}, 0.1, 1.0}, {{1}, 0.1, 1.0}}, sum},
        {"weighted_sum",
         "tokens",
         sums,
         {{{3, 49, 31}}, {{3, 49, 31}}, {{1}, 0.1, 1.0}, {{1}, 0.1, -0.8}},
         sum},
        {"weighted_sum",
         "stochastic depth",
         sums,
         {{{5, 7, 48}}, {{5, 7, 48}}, {{1}, 0.1, 1.0}, {{1}, 0.1, 0.9}, {{5}, 1.0, 0.3, false}},
         kept},
        {"batch_norm_relu", "training", training, norm_inputs({3, 49, 31}), norm(true), clear_of_kink},
        {"batch_norm_relu", "training, 64", training, norm_inputs({2, 197, 64}), norm(true), clear_of_kink},
        {"batch_norm_relu", "evaluation", passes, norm_inputs({2, 49, 32}), norm(false), clear_of_kink},
    };
}

std::vector<OpCase> unfold_cases() {
    const auto unfold = [](const Convolution& shape) {
        return [shape](const Args& in) { return autograd::unfold(in[0], shape).q; };
    };
    const std::vector<std::string> kernels = {"unfold", "fold"};
    return {
        {"unfold", "one", kernels, {{{1, 1, 1, 1}}}, unfold({1, 1, 1, 1, false})},
        {"unfold", "pictures", kernels, {{{2, 3, 9, 8}}}, unfold({3, 9, 8, 2, false})},
        {"unfold", "tokens", kernels, {{{2, 56, 5}}}, unfold({5, 7, 8, 2, true})},
        {"unfold", "stride 1", kernels, {{{1, 30, 16}}}, unfold({16, 5, 6, 1, true})},
    };
}

/// y (B, positions, O) in plain loops; x channels last.
std::vector<double> grouped(const std::vector<double>& x, const std::vector<double>& w,
                            const std::vector<double>& bias, const Convolution& s) {
    const auto outputs = static_cast<int64_t>(bias.size()), picture = s.channels * s.height * s.width;
    const int64_t batch = static_cast<int64_t>(x.size()) / picture;
    std::vector<double> y;
    for (int64_t i = 0; i < batch * s.positions() * outputs; ++i) {
        const int64_t o = i % outputs, p = i / outputs % s.positions(), b = i / outputs / s.positions();
        double sum = bias[static_cast<size_t>(o)];
        for (int64_t tap = 0; tap < 9; ++tap) {
            const int64_t row = p / s.out_width() * s.stride + tap / 3 - 1;
            const int64_t column = p % s.out_width() * s.stride + tap % 3 - 1;
            if (row < 0 || column < 0 || row >= s.height || column >= s.width) continue;
            const int64_t at = (row * s.width + column) * s.channels + o / (outputs / s.channels);
            sum += x[static_cast<size_t>(b * picture + at)] * w[static_cast<size_t>(o * 9 + tap)];
        }
        y.push_back(sum);
    }
    return y;
}

OpCase grouped_case(const std::string& label, int64_t batch, const Convolution& shape, bool quantized) {
    OpCase row;
    row.op = "grouped_convolution";
    row.label = label;
    row.kernels = {"grouped_convolution", "grouped_convolution_backward_input",
                   "grouped_convolution_backward_weight", "linear_scale", "sum_rows"};
    RowInputs inputs(row);
    const Shape pictures = {batch, shape.height * shape.width, shape.channels};
    const Shape weights = {2 * shape.channels, 9};
    const CodeRange four = CodeRange::signed_bits(4);
    const Operand x = quantized ? inputs.operand(pictures, 1.2, four, 0.14) : inputs.plain(pictures, 1.0);
    const Operand w = quantized ? inputs.operand(weights, 0.7, four, 0.09) : inputs.plain(weights, 0.7);
    const Operand bias = inputs.plain({2 * shape.channels}, 0.5);
    row.forward = [=](const Args& in) {
        return autograd::grouped_convolution(x.quantized(in), shape, w.quantized(in), bias.variable(in));
    };
    row.place = [=](Values& in) {
        x.place_clear(in);
        w.place_clear(in);
    };
    row.frozen = [=](const Values& base, const Values& at) {
        return grouped(x.frozen(base, at).at, w.frozen(base, at).at, bias.frozen(base, at).at, shape);
    };
    return row;
}

}  // namespace

std::vector<OpCase> stage_op_cases() {
    std::vector<OpCase> rows = order_cases();
    for (std::vector<OpCase> some : {score_cases(), sum_and_norm_cases(), unfold_cases()}) {
        std::move(some.begin(), some.end(), std::back_inserter(rows));
    }
    rows.push_back(grouped_case("plain", 2, {5, 7, 8, 2, true}, false));
    rows.push_back(grouped_case("codes", 3, {8, 6, 6, 2, true}, true));
    return rows;
}

}  // namespace vvtq::tests
