#include "tests/op_cases.h"

#include <utility>

namespace vvtq::tests {
namespace {

using autograd::Variable;
using engine::DType;
using engine::Shape;
using Args = std::vector<Variable>;

Input constant(const Shape& shape, double scale, double offset) { return {shape, scale, offset, false}; }

std::vector<OpCase> basic_cases() {
    const auto add = [](const Args& in) { return autograd::add(in[0], in[1]); };
    const auto scale = [](const Args& in) { return autograd::scale(in[0], -1.7); };
    const auto scale_by = [](const Args& in) { return autograd::scale_by(in[0], in[1].value()); };
    const auto other_dtype_and_back = [](const Args& in) {
        const DType dtype = in[0].value().dtype();
        return autograd::cast(autograd::cast(in[0], dtype == DType::f32 ? DType::f64 : DType::f32), dtype);
    };
    const auto unmoved = [](const Values&, const Values& at) { return at[0]; };  // f32 holds the inputs
    const auto sum = [](const Args& in) { return autograd::sum(in[0]); };
    const auto add_broadcast = [](const Args& in) { return autograd::add_broadcast(in[0], in[1]); };
    const auto residual = [](const Args& in) { return autograd::residual(in[0], in[1]); };
    const auto dropped = [](const Args& in) { return autograd::residual(in[0], in[1], in[2].value()); };
    const auto gelu = [](const Args& in) { return autograd::gelu(in[0]); };
    return {
        {"add", "one", {"add"}, {{{1}}, {{1}}}, add},
        {"add", "tokens", {"add"}, {{{2, 49, 197}}, {{2, 49, 197}}}, add},
        {"scale", "one", {"scale"}, {{{1}}}, scale},
        {"scale", "tokens", {"scale"}, {{{2, 49, 197}}}, scale},
        {"scale_by", "one", {"scale_by"}, {{{1}}, constant({1}, 0.0, -1.7)}, scale_by},
        {"scale_by", "tokens", {"scale_by"}, {{{2, 49, 197}}, constant({1}, 0.0, 0.3)}, scale_by},
        {"cast", "there and back", {}, {{{31, 49}}}, other_dtype_and_back, nullptr, unmoved},
        {"sum", "one", {"sum", "scale_by"}, {{{1}}}, sum},
        {"sum", "tokens", {"sum", "scale_by"}, {{{2, 49, 197}, 1.0, 0.3}}, sum},
        {"reshape",
         "rows",
         {},
         {{{2, 3, 31}}},
         [](const Args& in) {
             return autograd::reshape(in[0], {6, 31});
         }},
        {"add_broadcast", "one", {"add_broadcast", "sum_rows"}, {{{1, 1}}, {{1}}}, add_broadcast},
        {"add_broadcast", "last", {"add_broadcast", "sum_rows"}, {{{2, 49, 197}}, {{197}}}, add_broadcast},
        {"add_broadcast",
         "tokens",
         {"add_broadcast", "sum_rows"},
         {{{3, 31, 49}}, {{1, 31, 49}}},
         add_broadcast},
        {"residual", "one", {"residual"}, {{{1, 1}}, {{1, 1}}}, residual},
        {"residual", "tokens", {"residual"}, {{{2, 49, 197}}, {{2, 49, 197}}}, residual},
        {"residual",
         "stochastic depth",
         {"residual", "scale_samples"},
         {{{31, 7, 49}}, {{31, 7, 49}}, constant({31}, 1.0, 0.2)},
         dropped},
        {"gelu", "one", {"gelu", "gelu_backward"}, {{{1}, 1.0, 0.5}}, gelu},
        {"gelu", "middle", {"gelu", "gelu_backward"}, {{{31, 49}, 2.0}}, gelu},
        {"gelu", "tails", {"gelu", "gelu_backward"}, {{{2, 49, 197}, 7.0}}, gelu},
    };
}

std::vector<OpCase> norm_cases() {
    const std::vector<std::string> layer_norm_kernels = {"layer_norm", "layer_norm_backward"};
    const std::vector<std::string> softmax_kernels = {"softmax", "softmax_backward"};
    const std::vector<std::string> loss_kernels = {"soft_cross_entropy", "scale_by"};
    const auto layer_norm = [](const Args& in) { return autograd::layer_norm(in[0], in[1], in[2], 1e-6); };
    const auto softmax = [](const Args& in) { return autograd::softmax(in[0], 0.5); };
    const auto loss = [](const Args& in) { return autograd::soft_cross_entropy(in[0], in[1].value()); };
    const auto norm_inputs = [](const Shape& x) -> std::vector<Input> {
        return {{x, 1.0, 0.4}, {{x.cols()}, 0.3, 1.0}, {{x.cols()}}};
    };
    return {
        {"layer_norm", "one row", layer_norm_kernels, norm_inputs({1, 5}), layer_norm},
        {"layer_norm", "31", layer_norm_kernels, norm_inputs({49, 31}), layer_norm},
        {"layer_norm", "197", layer_norm_kernels, norm_inputs({3, 49, 197}), layer_norm},
        {"softmax", "one row", softmax_kernels, {{{1, 2}}}, softmax},
        {"softmax", "31", softmax_kernels, {{{2, 49, 31}, 4.0}}, softmax},
        {"softmax", "197", softmax_kernels, {{{1, 3, 49, 197}, 8.0}}, softmax},
        {"soft_cross_entropy", "one row", loss_kernels, {{{1, 2}}, constant({1, 2}, 0.5, 0.5)}, loss},
        {"soft_cross_entropy", "31", loss_kernels, {{{5, 31}, 3.0}, constant({5, 31}, 0.5, 0.5)}, loss},
        {"soft_cross_entropy",
         "197",
         loss_kernels,
         {{{197, 197}, 3.0}, constant({197, 197}, 0.02, 0.02)},
         loss},
    };
}

std::vector<OpCase> matmul_cases() {
    const std::vector<std::string> plain = {"linear", "linear_backward_input", "linear_backward_weight"};
    const std::vector<std::string> biased = {"linear", "linear_backward_input", "linear_backward_weight",
                                             "sum_rows"};
    const auto linear = [](const Args& in) { return autograd::linear(in[0], in[1], in[2]); };
    const auto no_bias = [](const Args& in) { return autograd::linear(in[0], in[1], {}); };
    const auto scores = [](int64_t heads) {
        return [heads](const Args& in) { return autograd::attention_scores(in[0], in[1], heads); };
    };
    const auto mix = [](const Args& in) { return autograd::attention_apply(in[0], in[1]); };
    return {
        {"linear", "one", plain, {{{1, 1}}, {{1, 1}}}, no_bias},
        {"linear", "no bias", plain, {{{31, 49}}, {{197, 49}}}, no_bias},
        {"linear", "one row", biased, {{{31}}, {{49, 31}}, {{49}}}, linear},
        {"linear", "31 to 49", biased, {{{2, 7, 31}}, {{49, 31}}, {{49}}}, linear},
        {"linear", "197 tokens", biased, {{{3, 197, 49}}, {{31, 49}}, {{31}}}, linear},
        {"attention_scores", "one", {"batched_matmul"}, {{{1, 1, 1}}, {{1, 1, 1}}}, scores(1)},
        {"attention_scores", "31", {"batched_matmul"}, {{{2, 31, 6}}, {{2, 31, 6}}}, scores(2)},
        {"attention_scores", "49", {"batched_matmul"}, {{{3, 49, 62}}, {{3, 49, 62}}}, scores(2)},
        {"attention_scores", "197", {"batched_matmul"}, {{{1, 197, 24}}, {{1, 197, 24}}}, scores(3)},
        {"attention_apply", "one", {"batched_matmul"}, {{{1, 1, 1, 1}}, {{1, 1, 1}}}, mix},
        {"attention_apply", "31", {"batched_matmul"}, {{{2, 2, 31, 31}}, {{2, 31, 6}}}, mix},
        {"attention_apply", "49", {"batched_matmul"}, {{{3, 2, 49, 49}}, {{3, 49, 62}}}, mix},
        {"attention_apply", "197", {"batched_matmul"}, {{{1, 3, 197, 197}}, {{1, 197, 24}}}, mix},
    };
}

std::vector<OpCase> token_cases() {
    const std::vector<std::string> prepend_kernels = {"prepend_token", "select_token", "sum_rows",
                                                      "drop_first_token"};
    const auto patchify = [](int64_t patch) {
        return [patch](const Args& in) { return autograd::patchify(in[0], patch); };
    };
    const auto prepend = [](const Args& in) { return autograd::prepend_token(in[0], in[1]); };
    const auto select = [](int64_t index) {
        return [index](const Args& in) { return autograd::select_token(in[0], index); };
    };
    return {
        {"patchify", "one", {"patchify", "unpatchify"}, {{{1, 1, 1, 1}}}, patchify(1)},
        {"patchify", "wide", {"patchify", "unpatchify"}, {{{2, 3, 8, 12}}}, patchify(4)},
        {"patchify", "7", {"patchify", "unpatchify"}, {{{5, 3, 49, 28}}}, patchify(7)},
        {"prepend_token", "one", prepend_kernels, {{{1, 1, 1}}, {{1, 1, 1}}}, prepend},
        {"prepend_token", "197", prepend_kernels, {{{1, 1, 49}}, {{2, 196, 49}}}, prepend},
        {"select_token", "one", {"select_token", "scatter_token"}, {{{1, 1, 1}}}, select(0)},
        {"select_token", "first", {"select_token", "scatter_token"}, {{{2, 31, 49}}}, select(0)},
        {"select_token", "last", {"select_token", "scatter_token"}, {{{3, 197, 31}}}, select(196)},
    };
}

}  // namespace

const std::vector<OpCase>& op_cases() {
    static const std::vector<OpCase> cases = [] {
        std::vector<OpCase> all;
        for (std::vector<OpCase> some :
             {basic_cases(), norm_cases(), matmul_cases(), token_cases(), quantizer_op_cases(),
              code_op_cases(), block_op_cases(), stage_op_cases(), head_op_cases()}) {
            std::move(some.begin(), some.end(), std::back_inserter(all));
        }
        return all;
    }();
    return cases;
}

const std::map<std::string, std::set<size_t>>& activations() {
    static const std::map<std::string, std::set<size_t>> inputs = {
        {"add", {0, 1}},
        {"add_broadcast", {0}},
        {"attention", {0}},
        {"attention_apply", {0, 1}},
        {"binary", {0}},
        {"attention_scores", {0, 1}},
        {"cast", {0}},
        {"gelu", {0}},
        {"layer_norm", {0}},
        {"linear", {0}},
        {"lsq", {0}},
        {"mlp", {0}},
        {"patchify", {0}},
        {"prepend_token", {1}},
        {"quantize", {0}},
        {"reshape", {0}},
        {"residual", {0, 1}},
        {"residual_norm", {0, 1}},
        {"scale", {0}},
        {"scale_by", {0}},
        {"select_token", {0}},
        {"softmax", {0}},
        {"sum", {0}},
        {"gather_tokens", {0}},
        {"mean_tokens", {0}},
        {"transpose", {0}},
        {"table_bias", {}},
        {"biased_softmax", {0}},
        {"weighted_sum", {0, 1}},
        {"batch_norm_relu", {0}},
        {"unfold", {0}},
        {"grouped_convolution", {0}},
        {"soft_cross_entropy", {}},
        {"quantize_weights", {}},
    };
    return inputs;
}

}  // namespace vvtq::tests
