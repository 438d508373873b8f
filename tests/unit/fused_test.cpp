// Fused ops against the same computed from simple ops: values and all gradients, in f64.
#include <cmath>
#include <map>

#include "autograd/ops.h"
#include "tests/catch.h"
#include "tests/golden_inputs.h"
#include "tests/quant_params.h"

using namespace vvtq::autograd;
using vvtq::engine::CodeRange;
using vvtq::engine::DType;
using vvtq::engine::kernels;
using vvtq::engine::Shape;

using vvtq::tests::fill;
using vvtq::tests::quant_params;
using vvtq::tests::relative_error;

namespace {

constexpr double kTolerance = 1e-13;  // measured: 4.9e-15, a step of a weight
constexpr double kEps = 1e-6;

Tensor filled(const std::string& name, const Shape& shape, double scale, double offset = 0.0) {
    return Tensor::from(fill(name, shape.numel(), scale, offset), shape, DType::f64);
}

Tensor one(double value) { return Tensor::full({1}, value, DType::f64); }

/// Leaves by name.
using Leaves = std::map<std::string, Variable>;

/// An output: the variable that gradients go through, and its values where it holds codes.
struct Result {
    Result(const Variable& y) : variable(y), value(y.value()) {}  // implicit, so that lists read plainly
    Result(const Quantized& q) : variable(q.q), value(q.q.value()) {
        if (!q.scale.defined()) return;
        value = value.like();
        kernels(value.device()).scale_by(q.q.value(), q.scale, value);
    }
    Variable variable;
    Tensor value;
};

/// Its gradient is u.
Variable weighted(const Variable& x, const Tensor& u) {
    return record("test.weighted", one(0), {x}, [u](const Tensor&, Gradients& dx) { dx.set(0, u); });
}

struct Outcome {
    std::vector<std::vector<double>> values;
    std::map<std::string, std::vector<double>> gradients;
};

template <typename Op>
Outcome outcome_of(const std::map<std::string, Tensor>& inputs, Op&& op) {
    Leaves leaves;
    for (const auto& [name, value] : inputs) leaves[name] = Variable(value, true);
    const std::vector<Result> results = op(leaves);
    Outcome outcome;
    Variable loss(one(0));
    for (size_t i = 0; i < results.size(); ++i) {
        outcome.values.push_back(results[i].value.to_vector());
        const Variable& y = results[i].variable;
        loss = add(loss, weighted(y, filled("upstream" + std::to_string(i), y.shape(), 1.0, 0.1)));
    }
    loss.backward();
    for (const auto& [name, leaf] : leaves) {
        outcome.gradients[name] = leaf.grad().defined() ? leaf.grad().to_vector() : std::vector<double>{};
    }
    return outcome;
}

/// Both ops on the same leaves; leaves with a gradient of one must have one of the other.
template <typename Fused, typename Simple>
void compare(const std::map<std::string, Tensor>& inputs, Fused&& fused, Simple&& simple) {
    const Outcome a = outcome_of(inputs, fused), b = outcome_of(inputs, simple);
    REQUIRE(a.values.size() == b.values.size());
    for (size_t i = 0; i < a.values.size(); ++i) {
        INFO("output " << i);
        CHECK(relative_error(a.values[i], b.values[i]) <= kTolerance);
    }
    size_t moved = 0;
    for (const auto& [name, gradient] : b.gradients) {
        INFO("gradient of " << name);
        CHECK(relative_error(a.gradients.at(name), gradient) <= kTolerance);
        moved += !gradient.empty();
    }
    CHECK(moved == inputs.size());
}

/// A quantizer whose leaves are `name`.alpha and, with an offset, `name`.beta.
struct Step {
    std::string name;
    CodeRange range;
    double alpha;
    double beta = std::nan("");  // none

    bool offset() const { return !std::isnan(beta); }
    void add_to(std::map<std::string, Tensor>& inputs) const {
        inputs[name + ".alpha"] = one(alpha);
        if (offset()) inputs[name + ".beta"] = one(beta);
    }
    QuantParams parameters(const Leaves& in) const {
        return quant_params(in.at(name + ".alpha"), offset() ? in.at(name + ".beta") : Variable(), range,
                            one(0.37));
    }
    QuantParams weight_parameters(const Leaves& in, const Tensor& g = {}) const {
        return quant_params(in.at(name + ".alpha"), {}, range, g);
    }
    /// With the gradient scale of weights.
    Variable weight(const Leaves& in, const Tensor& g) const {
        kernels(g.device()).lsq_weight_grad_scale(in.at(name).value(), weight_parameters(in).values(), g);
        return lsq(in.at(name), weight_parameters(in, g));
    }
    Variable operator()(const Variable& x, const Leaves& in) const { return lsq(x, parameters(in)); }
};

const CodeRange kSigned = CodeRange::signed_bits(4), kUnsigned = CodeRange::unsigned_bits(4);

}  // namespace

TEST_CASE("fused: residual_norm is residual, layer_norm and lsq", "[fused]") {
    const Shape shape{5, 13, 31};
    const Step step{"step", kSigned, 0.23};
    const Tensor factors = filled("keep", {5}, 1.0, 0.2);
    for (int parts = 0; parts < 8; ++parts) {
        const bool branch = parts & 1, quantized = parts & 2;
        const Tensor keep = branch && (parts & 4) ? factors : Tensor();
        if ((parts & 4) && !branch) continue;
        INFO("parts " << parts);
        std::map<std::string, Tensor> inputs = {{"x", filled("x", shape, 1.0, 0.4)},
                                                {"gamma", filled("gamma", {31}, 0.3, 1.0)},
                                                {"beta", filled("beta", {31}, 0.5)}};
        if (branch) inputs["f"] = filled("f", shape, 0.8);
        if (quantized) step.add_to(inputs);
        compare(
            inputs,
            [&](const Leaves& in) -> std::vector<Result> {
                const auto r =
                    residual_norm(in.at("x"), branch ? in.at("f") : Variable(), keep, in.at("gamma"),
                                  in.at("beta"), kEps, quantized ? step.parameters(in) : QuantParams{});
                return {r.y, r.n};
            },
            [&](const Leaves& in) -> std::vector<Result> {
                const Variable y = branch ? residual(in.at("x"), in.at("f"), keep) : in.at("x");
                const Variable n = layer_norm(y, in.at("gamma"), in.at("beta"), kEps);
                return {y, quantized ? step(n, in) : n};
            });
    }
}

TEST_CASE("fused: mlp is two linear layers with gelu and lsq between", "[fused]") {
    const Step x{"x", kSigned, 0.19}, w1{"w1", kSigned, 0.047}, w2{"w2", kSigned, 0.036};
    const Step offset_x{"x", kUnsigned, 0.17, -1.1};
    for (int parts = 0; parts < 8; ++parts) {
        const bool quantized = parts & 1, hidden_step = parts & 2, offset = parts & 4;
        INFO("parts " << parts);
        const Step input = offset ? offset_x : x;
        const Step hidden = offset ? Step{"h", kUnsigned, 0.11, -0.16} : Step{"h", kUnsigned, 0.11};
        std::map<std::string, Tensor> inputs = {{"x", filled("x", {3, 13, 31}, 1.4)},
                                                {"w1", filled("w1", {49, 31}, 0.4)},
                                                {"b1", filled("b1", {49}, 0.5)},
                                                {"w2", filled("w2", {31, 49}, 0.3)},
                                                {"b2", filled("b2", {31}, 0.5)}};
        if (quantized) {
            for (const Step& step : {input, w1, w2}) step.add_to(inputs);
        }
        if (hidden_step) hidden.add_to(inputs);
        compare(
            inputs,
            [&](const Leaves& in) -> std::vector<Result> {
                const auto operand = [&](const Step& step) {
                    return quantized ? quantize(in.at(step.name), step.parameters(in))
                                     : Quantized(in.at(step.name));
                };
                return {mlp(operand(input), operand(w1), in.at("b1"),
                            hidden_step ? hidden.parameters(in) : QuantParams{}, operand(w2), in.at("b2"))};
            },
            [&](const Leaves& in) -> std::vector<Result> {
                const auto operand = [&](const Step& step) {
                    return quantized ? step(in.at(step.name), in) : in.at(step.name);
                };
                const Variable h = gelu(linear(operand(input), operand(w1), in.at("b1")));
                return {linear(hidden_step ? hidden(h, in) : h, operand(w2), in.at("b2"))};
            });
    }
}

namespace {

constexpr double kScoreScale = 0.6;
constexpr int64_t kHeads = 3;

/// What attention is given, and which of it is quantized.
struct AttentionCase {
    bool weights, activations, inner;  // inner: q, k, v and the probabilities
    Step x{"x", kSigned, 0.19}, output{"o", kSigned, 0.047}, p{"p", kUnsigned, 0.031};
    Step w[3] = {{"wq", kSigned, 0.07}, {"wk", kSigned, 0.08}, {"wv", kSigned, 0.09}};
    Step y[3] = {{"q", kSigned, 0.21}, {"k", kSigned, 0.24}, {"v", kSigned, 0.19}};

    bool k_bias() const { return inner; }  // else its gradient is rounding alone
    std::map<std::string, Tensor> inputs() const {
        std::map<std::string, Tensor> all = {{"x", filled("x", {2, 13, 12}, 1.4)}};
        for (const Step& step : w) {
            all[step.name] = filled(step.name, {12, 12}, 0.6);
            if (weights) step.add_to(all);
        }
        for (const Step& step : y) {
            if (step.name != "k" || k_bias()) all["b" + step.name] = filled("b" + step.name, {12}, 0.4);
            if (inner) step.add_to(all);
        }
        if (inner) p.add_to(all);
        if (activations) {
            x.add_to(all);
            output.add_to(all);
        }
        return all;
    }
    Variable bias(const Leaves& in, size_t t) const {
        return t != 1 || k_bias() ? in.at("b" + y[t].name) : Variable();
    }

    std::vector<Result> fused(const Leaves& in) const {
        std::vector<Quantized> codes;
        vvtq::autograd::WeightMatrix matrix;  // of all three, where the pass over weights laid them so
        if (weights) {
            std::vector<WeightParameters> all;
            for (const Step& step : w)
                all.push_back({in.at(step.name), step.weight_parameters(in), kSigned.count(), !all.empty()});
            const QuantizedWeights quantized = quantize_weights(all, DType::f64, false);
            codes = quantized.weights;
            matrix = quantized.matrices[0];
            CHECK(matrix.codes.shape() == Shape({36, 12}));
        } else {
            for (const Step& step : w) codes.emplace_back(in.at(step.name));
        }
        const auto projection = [&](size_t t) -> Projection {
            return {codes[t], bias(in, t), inner ? y[t].parameters(in) : QuantParams{}};
        };
        return {attention(activations ? quantize(in.at("x"), x.parameters(in)) : Quantized(in.at("x")),
                          {projection(0), projection(1), projection(2), matrix},
                          inner ? p.parameters(in) : QuantParams{},
                          activations ? output.parameters(in) : QuantParams{}, kHeads, kScoreScale)};
    }

    std::vector<Result> simple(const Leaves& in) const {
        const Variable input = activations ? x(in.at("x"), in) : in.at("x");
        Variable value[3];
        for (size_t t = 0; t < 3; ++t) {
            Variable weight = in.at(w[t].name);
            if (weights) weight = w[t].weight(in, one(0));
            value[t] = linear(input, weight, bias(in, t));
            if (inner) value[t] = y[t](value[t], in);
        }
        const Variable probabilities = softmax(attention_scores(value[0], value[1], kHeads), kScoreScale);
        const Variable mixed = attention_apply(inner ? p(probabilities, in) : probabilities, value[2]);
        return {activations ? output(mixed, in) : mixed};
    }
};

}  // namespace

TEST_CASE("fused: attention is projections, scores, softmax, mix and lsq", "[fused]") {
    for (int parts = 0; parts < 8; ++parts) {
        INFO("parts " << parts);
        const AttentionCase test{(parts & 1) != 0, (parts & 2) != 0, (parts & 4) != 0};
        compare(
            test.inputs(), [&](const Leaves& in) { return test.fused(in); },
            [&](const Leaves& in) { return test.simple(in); });
    }
}

TEST_CASE("fused: quantize_weights is lsq of every weight, and its regularizer the sum of theirs",
          "[fused]") {
    const Step steps[] = {{"a", CodeRange::signed_bits(2), 0.3},
                          {"b", CodeRange::signed_bits(4), 0.09},
                          {"c", CodeRange::signed_bits(8), 0.004}};
    const std::map<std::string, Shape> shapes = {{"a", {31, 49}}, {"b", {12, 3, 4, 4}}, {"c", {7, 5}}};
    std::map<std::string, Tensor> inputs;
    for (const Step& step : steps) {
        inputs[step.name] = filled(step.name, shapes.at(step.name), 0.7);
        step.add_to(inputs);
    }
    const auto matrix = [](const Variable& w) {
        const int64_t rows = w.shape()[0];
        return reshape(w, {rows, w.shape().numel() / rows});
    };
    for (const bool regularized : {false, true}) {
        INFO("regularized " << regularized);
        compare(
            inputs,
            [&](const Leaves& in) {
                std::vector<WeightParameters> all;
                for (const Step& step : steps) {
                    all.push_back({in.at(step.name), step.weight_parameters(in), step.range.count()});
                }
                const QuantizedWeights quantized = quantize_weights(all, DType::f64, regularized);
                std::vector<Result> results(quantized.weights.begin(), quantized.weights.end());
                if (regularized) results.emplace_back(quantized.regularizer);
                for (const Tensor& term : quantized.terms) results.emplace_back(Variable(term));
                return results;
            },
            [&](const Leaves& in) {
                std::vector<Result> results;
                Variable total;
                std::vector<Result> terms;
                for (const Step& step : steps) {
                    const Tensor g = one(0);
                    results.emplace_back(matrix(step.weight(in, g)));
                    const Variable w = in.at(step.name);
                    const Variable term =
                        quantize_weights({{w, step.weight_parameters(in), step.range.count()}}, DType::f64,
                                         true)
                            .regularizer;
                    total = total.defined() ? add(total, term) : term;
                    terms.emplace_back(Variable(term.value()));
                }
                if (!regularized) return results;
                results.emplace_back(total);
                results.insert(results.end(), terms.begin(), terms.end());
                return results;
            });
    }
}
