// Rows of the fused passes of a transformer block, each with its formula written out in plain loops.
#include <array>
#include <cmath>

#include "nn/token_order.h"
#include "tests/op_parts.h"

namespace vvtq::tests {
namespace {

using autograd::Quantized;
using autograd::Variable;
using engine::CodeRange;
using engine::Shape;

constexpr double kEps = 1e-6;

/// Applies f to the values at the base and at the place.
template <typename F>
Both both(F&& f, const Both& x) {
    return {f(x.base), f(x.at)};
}

/// x (R, K) normalized.
Both layer_norm(const Both& x, const Both& gamma, const Both& beta) {
    const auto norm = [](std::vector<double> v, const std::vector<double>& w, const std::vector<double>& b) {
        const size_t cols = w.size();
        for (size_t row = 0; row < v.size(); row += cols) {
            double mean = 0, squares = 0;
            for (size_t i = 0; i < cols; ++i) mean += v[row + i] / static_cast<double>(cols);
            for (size_t i = 0; i < cols; ++i) squares += (v[row + i] - mean) * (v[row + i] - mean);
            const double deviation = std::sqrt(squares / static_cast<double>(cols) + kEps);
            for (size_t i = 0; i < cols; ++i) v[row + i] = (v[row + i] - mean) / deviation * w[i] + b[i];
        }
        return v;
    };
    return {norm(x.base, gamma.base, beta.base), norm(x.at, gamma.at, beta.at)};
}

Both gelu(const Both& x) {
    const auto apply = [](std::vector<double> v) {
        for (double& value : v) value *= 0.5 * (1.0 + std::erf(value / std::sqrt(2.0)));
        return v;
    };
    return both(apply, x);
}

struct NormOptions {
    bool branch = true, dropped = false, quantized = true;
    bool sum_used = true;  // whether y gets a gradient of its own
};

OpCase residual_norm_case(const std::string& label, const Shape& shape, const NormOptions& options) {
    OpCase row;
    row.op = "residual_norm";
    row.label = label;
    row.kernels = {"residual_norm", "residual_norm_backward"};
    RowInputs inputs(row);
    const Operand x{inputs.add(shape, 1.0, 0.4)};
    const Operand f = options.branch ? inputs.plain(shape, 0.8) : Operand{};
    const Operand gamma = inputs.plain({shape.cols()}, 0.3, 1.0), beta = inputs.plain({shape.cols()}, 0.5);
    Operand keep;
    if (options.dropped) keep.place = inputs.add({shape[0]}, 1.0, 0.2, false);
    std::optional<StepPlaces> step;
    if (options.quantized) step = inputs.step(CodeRange::signed_bits(3), 0.45);

    row.forward = [=](const Args& in) {
        const engine::Tensor factors = keep.place ? in[*keep.place].value() : engine::Tensor();
        const auto result =
            autograd::residual_norm(x.variable(in), f.variable(in), factors, gamma.variable(in),
                                    beta.variable(in), kEps, parameters_of(step, in));
        const Variable n = autograd::scale(result.n.q, -1.3);
        return options.sum_used ? autograd::add(autograd::scale(result.y, 0.7), n) : n;
    };
    row.frozen = [=](const Values& base, const Values& at) {
        Both y = x.frozen(base, at);
        const Both branch = f.frozen(base, at);
        const size_t size = y.at.size() / static_cast<size_t>(shape[0]);
        for (size_t i = 0; i < branch.at.size(); ++i) {
            const double factor = keep.place ? base[*keep.place][i / size] : 1.0;
            y.base[i] += factor * branch.base[i];
            y.at[i] += factor * branch.at[i];
        }
        const Both n = layer_norm(y, gamma.frozen(base, at), beta.frozen(base, at));
        std::vector<double> result = codes_behind(step, n, base, at);
        for (size_t i = 0; i < result.size(); ++i) {
            result[i] = -1.3 * result[i] + (options.sum_used ? 0.7 * y.at[i] : 0.0);
        }
        return result;
    };
    return row;
}

struct MlpParts {
    Operand x, w1, b1;
    std::optional<StepPlaces> hidden;
    Operand w2, b2;
};

template <typename Make>
OpCase mlp_case(const std::string& label, Make&& make) {
    OpCase row;
    row.op = "mlp";
    row.label = label;
    row.kernels = {"linear",   "linear_backward_input", "linear_backward_weight",
                   "sum_rows", "gelu_quantize",         "gelu_quantize_backward"};
    RowInputs inputs(row);
    const MlpParts parts = make(inputs);
    const auto width = static_cast<size_t>(row.inputs[*parts.x.place].shape.cols());
    const auto hidden = static_cast<size_t>(row.inputs[*parts.b1.place].shape.numel());
    row.forward = [parts](const Args& in) {
        return autograd::mlp(parts.x.quantized(in), parts.w1.quantized(in), parts.b1.variable(in),
                             parameters_of(parts.hidden, in), parts.w2.quantized(in), parts.b2.variable(in));
    };
    row.place = [parts](Values& in) {
        for (const Operand* operand : {&parts.x, &parts.w1, &parts.w2}) operand->place_clear(in);
    };
    row.frozen = [=](const Values& base, const Values& at) {
        const Both z =
            product(parts.x.frozen(base, at), parts.w1.frozen(base, at), parts.b1.frozen(base, at), width);
        const Both h = behind(parts.hidden, gelu(z), base, at);
        return product(h, parts.w2.frozen(base, at), parts.b2.frozen(base, at), hidden).at;
    };
    return row;
}

std::vector<OpCase> mlp_cases() {
    const CodeRange three = CodeRange::signed_bits(3), unsigned_three = CodeRange::unsigned_bits(3);
    return {
        mlp_case("quantized",
                 [&](RowInputs& in) -> MlpParts {
                     return {in.operand({2, 7, 6}, 1.4, three, 0.4),
                             in.operand({10, 6}, 0.7, three, 0.21),
                             in.plain({10}, 0.5),
                             in.step(unsigned_three, 0.13, -0.16),
                             in.operand({6, 10}, 0.6, three, 0.17),
                             in.plain({6}, 0.5)};
                 }),
        mlp_case("offsets before both products, plain weights",
                 [&](RowInputs& in) -> MlpParts {
                     return {in.operand({13, 7}, 1.4, unsigned_three, 0.3, -0.4),
                             in.plain({11, 7}, 0.7),
                             in.plain({11}, 0.5),
                             in.step(unsigned_three, 0.11, 0.05),
                             in.plain({5, 11}, 0.6),
                             in.plain({5}, 0.5)};
                 }),
        mlp_case("a hidden step alone, without offset",
                 [&](RowInputs& in) -> MlpParts {
                     return {in.plain({1, 5, 6}, 1.4), in.plain({9, 6}, 0.7), in.plain({9}, 0.5),
                             in.step(three, 0.2),      in.plain({6, 9}, 0.6), in.plain({6}, 0.5)};
                 }),
        mlp_case("plain",
                 [&](RowInputs& in) -> MlpParts {
                     return {in.plain({2, 7, 6}, 1.4), in.plain({10, 6}, 0.7), in.plain({10}, 0.5), {},
                             in.plain({6, 10}, 0.6),   in.plain({6}, 0.5)};
                 }),
    };
}

struct AttentionOptions {
    Shape shape;
    int64_t heads;
    bool weights, activations;  // which of them are quantized
    int64_t groups = 1;         // of tokens that attend to one another
    bool ordered = false;       // whether they are of tokens in another order
    bool biased = false;        // whether there is a bias and a mask on the scores

    int64_t tokens() const { return shape[1] / groups; }
    std::vector<int64_t> order() const {
        std::vector<int64_t> index;
        for (int64_t i = 0; i < shape[1]; ++i) index.push_back((11 * i + 3) % shape[1]);
        return index;
    }
};

struct AttentionParts {
    Operand x;
    std::array<size_t, 3> w;
    std::array<Operand, 3> bias;
    std::array<std::optional<size_t>, 3> w_alpha;
    std::array<std::optional<StepPlaces>, 3> steps;  // of q, k, v
    std::optional<StepPlaces> probability, output;
    Operand score_bias, mask;
};

constexpr double kScoreScale = 0.8;
const CodeRange kAttentionRange = CodeRange::signed_bits(4);

AttentionParts attention_inputs(RowInputs& in, const AttentionOptions& options) {
    const int64_t c = options.shape.cols();
    AttentionParts parts;
    parts.x = options.activations ? in.operand(options.shape, 1.4, kAttentionRange, 0.17)
                                  : in.plain(options.shape, 1.4);
    for (size_t t = 0; t < 3; ++t) {
        parts.w[t] = in.add({c, c}, 0.9);
        // where k is not quantized the softmax is blind to its bias, whose gradient is rounding alone
        if (t != 1 || options.activations) parts.bias[t] = in.plain({c}, 0.5);
        if (options.weights) parts.w_alpha[t] = in.add({1}, 0.0, 0.1 + 0.01 * static_cast<double>(t));
        if (options.activations)
            parts.steps[t] = in.step(kAttentionRange, 0.2 + 0.03 * static_cast<double>(t));
    }
    if (options.activations) {
        parts.probability = in.step(CodeRange::unsigned_bits(4), 0.05);
        parts.output = in.step(kAttentionRange, 0.0937);
    }
    if (options.biased) {
        const int64_t n = options.tokens();
        parts.score_bias = in.plain({options.heads, n, n}, 0.8);
        parts.mask.place = in.add({options.groups, n, n}, 1.5, 0.0, false);
    }
    return parts;
}

Variable attention_forward(const AttentionParts& parts, const AttentionOptions& options, const Args& in) {
    std::vector<Quantized> w;
    autograd::WeightMatrix matrix;
    if (parts.w_alpha[0]) {
        std::vector<autograd::WeightParameters> weights;
        for (size_t t = 0; t < 3; ++t) {
            weights.push_back({in[parts.w[t]], quant_params(in[*parts.w_alpha[t]], {}, kAttentionRange),
                               kAttentionRange.count(), t > 0});
        }
        const autograd::QuantizedWeights all =
            autograd::quantize_weights(weights, in[0].value().dtype(), false);
        w = all.weights;
        matrix = all.matrices[0];
    } else {
        for (const size_t place : parts.w) w.emplace_back(in[place]);
    }
    const auto projection = [&](size_t t) -> autograd::Projection {
        return {w[t], parts.bias[t].variable(in), parameters_of(parts.steps[t], in)};
    };
    const autograd::ScoreTerms terms{parts.score_bias.variable(in),
                                     parts.mask.place ? in[*parts.mask.place].value() : engine::Tensor()};
    autograd::TokenGrouping groups{options.groups, {}};
    if (options.ordered) {
        groups.order = nn::on_device(nn::order_of(options.order()), in[0].value().device());
    }
    return autograd::attention(parts.x.quantized(in), {projection(0), projection(1), projection(2), matrix},
                               parameters_of(parts.probability, in), parameters_of(parts.output, in),
                               options.heads, kScoreScale, terms, groups)
        .q;
}

/// y row i = x row order[i] of each sample of x (B, N, C); with `back` the inverse.
std::vector<double> reordered(const std::vector<double>& x, const AttentionOptions& options, bool back) {
    if (!options.ordered) return x;
    const std::vector<int64_t> order = options.order();
    const size_t n = order.size(), c = static_cast<size_t>(options.shape[2]);
    std::vector<double> y(x.size());
    for (size_t e = 0; e < x.size(); ++e) {
        const size_t i = e / c % n, first = e / c - i, other = first + static_cast<size_t>(order[i]);
        const size_t from = back ? e / c : other, to = back ? other : e / c;
        y[to * c + e % c] = x[from * c + e % c];
    }
    return y;
}
Both reordered(const Both& x, const AttentionOptions& options) {
    return {reordered(x.base, options, false), reordered(x.at, options, false)};
}

/// softmax(s q k^T + bias + mask) of each head, (B, H, N, N); bias and mask may be empty.
std::vector<double> probabilities(const std::vector<double>& q, const std::vector<double>& k,
                                  const std::vector<double>& bias, const std::vector<double>& mask,
                                  const Shape& shape, size_t heads) {
    const auto batch = static_cast<size_t>(shape[0]), n = static_cast<size_t>(shape[1]),
               c = static_cast<size_t>(shape[2]), width = c / heads;
    std::vector<double> p(batch * heads * n * n);
    for (size_t row = 0; row < batch * heads * n; ++row) {
        const size_t b = row / n / heads, head = row / n % heads, i = row % n;
        double total = 0;
        for (size_t j = 0; j < n; ++j) {
            double score = 0;
            for (size_t d = head * width; d < (head + 1) * width; ++d) {
                score += q[(b * n + i) * c + d] * k[(b * n + j) * c + d];
            }
            score *= kScoreScale;
            if (!bias.empty()) score += bias[(head * n + i) * n + j];
            if (!mask.empty()) score += mask[(b * n * n + i * n + j) % mask.size()];
            p[row * n + j] = std::exp(score);
            total += p[row * n + j];
        }
        for (size_t j = 0; j < n; ++j) p[row * n + j] /= total;
    }
    return p;
}

/// p v, (B, N, C).
std::vector<double> mixed(const std::vector<double>& p, const std::vector<double>& v, const Shape& shape,
                          size_t heads) {
    const auto n = static_cast<size_t>(shape[1]), c = static_cast<size_t>(shape[2]);
    std::vector<double> o(v.size());
    for (size_t e = 0; e < o.size(); ++e) {
        const size_t b = e / c / n, i = e / c % n, head = e % c / (c / heads);
        for (size_t j = 0; j < n; ++j) {
            o[e] += p[((b * heads + head) * n + i) * n + j] * v[(b * n + j) * c + e % c];
        }
    }
    return o;
}

std::vector<double> frozen_attention(const AttentionParts& parts, const AttentionOptions& options,
                                     const Values& base, const Values& at) {
    const Both x = parts.x.frozen(base, at);
    Both projected[3];
    for (size_t t = 0; t < 3; ++t) {
        Both w{base[parts.w[t]], at[parts.w[t]]};
        if (parts.w_alpha[t]) {
            const size_t alpha = *parts.w_alpha[t];
            w = frozen_lsq(w, frozen_step(kAttentionRange, base[alpha][0], at[alpha][0],
                                          weight_grad_scale(w.base, kAttentionRange)));
        }
        const Both y =
            product(x, w, parts.bias[t].frozen(base, at), static_cast<size_t>(options.shape.cols()));
        projected[t] = reordered(behind(parts.steps[t], y, base, at), options);
    }
    const Shape grouped = {options.shape[0] * options.groups, options.tokens(), options.shape[2]};
    const auto& [q, k, v] = projected;
    const auto heads = static_cast<size_t>(options.heads);
    const Both bias = parts.score_bias.frozen(base, at), mask = parts.mask.frozen(base, at);
    const Both p = behind(parts.probability,
                          {probabilities(q.base, k.base, bias.base, mask.base, grouped, heads),
                           probabilities(q.at, k.at, bias.at, mask.at, grouped, heads)},
                          base, at);
    const Both o{reordered(mixed(p.base, v.base, grouped, heads), options, true),
                 reordered(mixed(p.at, v.at, grouped, heads), options, true)};
    return codes_behind(parts.output, o, base, at);
}

OpCase attention_case(const std::string& label, const AttentionOptions& options) {
    OpCase row;
    row.op = "attention";
    row.label = label;
    row.kernels = {"linear", "linear_backward_input", "linear_backward_weight", "attention",
                   "attention_backward"};
    RowInputs inputs(row);
    const AttentionParts parts = attention_inputs(inputs, options);
    row.forward = [=](const Args& in) { return attention_forward(parts, options, in); };
    row.place = [parts](Values& in) {
        parts.x.place_clear(in);
        for (size_t t = 0; t < 3; ++t) {
            if (parts.w_alpha[t]) clear_of_ties(in[parts.w[t]], in[*parts.w_alpha[t]][0]);
        }
    };
    row.frozen = [=](const Values& base, const Values& at) {
        return frozen_attention(parts, options, base, at);
    };
    return row;
}

}  // namespace

std::vector<OpCase> block_op_cases() {
    std::vector<OpCase> rows = mlp_cases();
    rows.insert(
        rows.end(),
        {residual_norm_case("quantized", {2, 7, 31}, {}),
         residual_norm_case("stochastic depth", {5, 3, 31}, {.dropped = true}),
         residual_norm_case("no branch", {2, 7, 31}, {.branch = false}),
         residual_norm_case("no branch, norm alone", {13, 31}, {.branch = false, .sum_used = false}),
         residual_norm_case("norm alone", {2, 7, 31}, {.sum_used = false}),
         residual_norm_case("plain", {2, 7, 31}, {.quantized = false}),
         residual_norm_case("plain, stochastic depth", {5, 3, 31}, {.dropped = true, .quantized = false}),
         residual_norm_case("plain, no branch", {13, 31}, {.branch = false, .quantized = false}),
         attention_case("quantized", {{2, 7, 6}, 2, true, true}),
         attention_case("plain weights", {{2, 5, 6}, 3, false, true}),
         attention_case("plain activations", {{2, 7, 6}, 2, true, false}),
         attention_case("plain", {{3, 5, 4}, 2, false, false}),
         attention_case("windows", {{2, 14, 6}, 2, true, true, 2, true, true}),
         attention_case("plain windows", {{1, 15, 4}, 2, false, false, 3, true, true}),
         attention_case("groups", {{2, 10, 6}, 3, true, true, 2}),
         attention_case("groups in another order", {{2, 14, 6}, 2, true, true, 2, true})});
    return rows;
}

}  // namespace vvtq::tests
