// Ops with several outputs on the tape.
#include <cmath>
#include <limits>

#include "autograd/ops.h"
#include "tests/catch.h"
#include "tests/quant_params.h"

using namespace vvtq::autograd;
using vvtq::engine::DType;
using vvtq::engine::Error;
using vvtq::engine::Fault;

namespace {

Tensor values(const std::vector<double>& v, DType dtype = DType::f64) {
    return Tensor::from(v, {static_cast<int64_t>(v.size())}, dtype);
}
Variable leaf(const std::vector<double>& v) { return Variable(values(v), true); }
std::vector<double> grad_of(const Variable& x) { return x.grad().to_vector(); }

Tensor scaled(const Tensor& x, double s) {
    const Tensor y = x.like();
    vvtq::engine::kernels(x.device()).scale(x, s, y);
    return y;
}

/// What the backward of `split` saw.
struct Seen {
    int calls = 0;
    std::vector<bool> arrived;
};

/// {2 x, 3 x, 5 x}
std::vector<Variable> split(const Variable& x, Seen* seen = nullptr) {
    std::vector<Output> ys;
    for (const double s : {2.0, 3.0, 5.0}) ys.emplace_back(scaled(x.value(), s));
    return record("test.split", ys, {x}, [seen](const std::vector<Tensor>& dy, Gradients& dx) {
        Tensor total;
        const double factors[] = {2, 3, 5};
        for (size_t i = 0; i < dy.size(); ++i) {
            if (seen != nullptr) seen->arrived.push_back(dy[i].defined());
            if (!dy[i].defined()) continue;
            const Tensor part = scaled(dy[i], factors[i]);
            if (total.defined()) {
                vvtq::engine::kernels(total.device()).accumulate_add(part, total);
            } else {
                total = part;
            }
        }
        if (seen != nullptr) ++seen->calls;
        dx.set(0, total);
    });
}

}  // namespace

TEST_CASE("autograd: gradients of several outputs meet in one backward", "[autograd]") {
    const Variable x = leaf({1, 2});
    Seen seen;
    const auto y = split(x, &seen);
    REQUIRE(y.size() == 3);
    CHECK(y[2].value().to_vector() == std::vector<double>{5, 10});
    // the outputs are used in different depths, and one of them twice
    Variable deep = scale(scale(y[0], 7), 1);
    deep = add(deep, y[1]);
    add(add(deep, y[2]), scale(y[0], 10)).backward(values({1, 100}));
    CHECK(seen.calls == 1);
    CHECK(seen.arrived == std::vector<bool>{true, true, true});
    CHECK(grad_of(x) == std::vector<double>{2 * 17 + 3 + 5, 100 * (2 * 17 + 3 + 5)});
}

TEST_CASE("autograd: an output that nothing is asked of has no gradient", "[autograd]") {
    for (size_t used = 0; used < 3; ++used) {
        const Variable x = leaf({1, 2});
        Seen seen;
        const auto y = split(x, &seen);
        scale(y[1], 4);  // on the tape, but nothing walks back from it
        y[used].backward(values({1, 1}));
        CHECK(seen.calls == 1);
        std::vector<bool> arrived(3, false);
        arrived[used] = true;
        CHECK(seen.arrived == arrived);
        const double factor = used == 0 ? 2 : used == 1 ? 3 : 5;
        CHECK(grad_of(x) == std::vector<double>{factor, factor});
    }
    Seen seen;
    split(leaf({1}), &seen);
    CHECK(seen.calls == 0);
}

TEST_CASE("autograd: outputs of one op feed each other's consumers", "[autograd]") {
    const Variable x = leaf({1});
    const auto y = split(x);
    const auto z = split(y[1]);
    add(z[0], add(z[2], y[0])).backward();  // 2 3 x + 5 3 x + 2 x
    CHECK(grad_of(x) == std::vector<double>{23});
}

TEST_CASE("autograd: an op with several outputs is walked once", "[autograd]") {
    const Variable x = leaf({1});
    const auto y = split(x);
    y[0].backward();
    CHECK_THROWS_AS(y[1].backward(), Error);
    CHECK(grad_of(x) == std::vector<double>{2});
}

TEST_CASE("autograd: an output's gradient has the dtype it names", "[autograd]") {
    // f32 codes of an f64 weight, whose gradient is the weight's
    const auto codes_of = [](const Variable& w) {
        return record("test.codes", std::vector<Output>{{w.value().to(DType::f32), DType::f64}}, {w},
                      [](const std::vector<Tensor>& dy, Gradients& dx) { dx.set(0, dy[0]); })[0];
    };
    const auto consumed = [](const Variable& q, DType gradient) {
        return record("test.consumer", values({0}), {q},
                      [gradient](const Tensor&, Gradients& dx) { dx.set(0, values({0.1}, gradient)); });
    };
    const Variable w = leaf({3});
    const Variable q = codes_of(w);
    CHECK(q.value().dtype() == DType::f32);
    consumed(q, DType::f64).backward();
    CHECK(w.grad().dtype() == DType::f64);
    CHECK(grad_of(w) == std::vector<double>{0.1});  // not rounded to f32
    CHECK_THROWS_AS(consumed(codes_of(leaf({3})), DType::f32).backward(), Error);
    const Variable other = leaf({3});
    CHECK_THROWS_AS(codes_of(other).backward(values({1}, DType::f32)), Error);
    codes_of(other).backward(values({0.1}));
    CHECK(grad_of(other) == std::vector<double>{0.1});
    codes_of(other).backward();
    CHECK(grad_of(other) == std::vector<double>{1.1});
}

TEST_CASE("autograd: values that only move keep the dtype of their gradient", "[autograd]") {
    const Variable w = leaf({3, 4});
    Variable q = record("test.codes", Output(w.value().to(DType::f32), DType::f64), {w},
                        [](const Tensor& dy, Gradients& dx) { dx.set(0, dy); });
    const auto order = Tensor::from({1, 0}, {2}, DType::i32);  // its own inverse
    q = reshape(gather_tokens(reshape(q, {1, 2, 1}), TokenOrder{order, order}), {2});
    CHECK(q.value().dtype() == DType::f32);
    CHECK(q.value().to_vector() == std::vector<double>{4, 3});
    CHECK(q.gradient_dtype() == DType::f64);
    q.backward(values({0.1, 0.2}));
    CHECK(grad_of(w) == std::vector<double>{0.2, 0.1});  // not rounded to f32
}

TEST_CASE("autograd: off the tape all outputs are constants", "[autograd]") {
    for (const Variable& y : split(Variable(values({1})))) CHECK_FALSE(y.requires_grad());
    const NoGrad off;
    CHECK_FALSE(is_recording());
    for (const Variable& y : split(leaf({1}))) CHECK_FALSE(y.requires_grad());
}

TEST_CASE("autograd: FiniteCheck looks at every output", "[autograd]") {
    const double infinity = std::numeric_limits<double>::infinity();
    const FiniteCheck check;
    const Variable x = leaf({1});
    const auto with = [&](const std::vector<Output>& ys) { record("test.several", ys, {x}, nullptr); };
    CHECK_NOTHROW(with({values({1}), values({2})}));
    CHECK_THROWS_AS(with({values({1}), values({infinity})}), Error);
    CHECK_THROWS_AS(with({values({infinity}), values({1})}), Error);
    CHECK_NOTHROW(with({values({1}), values({7}, DType::i32)}));  // integers are finite
}

TEST_CASE("autograd: outputs without a backward throw when a gradient is asked through them", "[autograd]") {
    const Variable x = leaf({1});
    const auto y = record("test.no_backward", {values({1}), values({2})}, {x}, nullptr);
    CHECK_THROWS_AS(y[1].backward(), Error);
}

TEST_CASE("autograd: what nobody keeps of several outputs is freed", "[autograd]") {
    const auto& pool = vvtq::engine::pool(vvtq::engine::Device::cpu);
    const Variable x(Tensor::zeros({1 << 16}, DType::f64), true);
    const size_t before = pool.in_use();
    const Variable kept = split(x)[1];
    CHECK(pool.in_use() - before <= x.value().bytes() + 4096);
    kept.backward(Tensor::zeros({1 << 16}, DType::f64));
    CHECK(pool.in_use() - before <= 2 * x.value().bytes() + 8192);  // kept, and x's gradient
}

TEST_CASE("autograd: fused ops refuse shapes that do not fit", "[autograd]") {
    const auto zeros = [](const vvtq::engine::Shape& shape) {
        return Variable(Tensor::zeros(shape, DType::f64), true);
    };
    const QuantParams none,
        step = vvtq::tests::quant_params(zeros({1}), {}, {-2, 1}, Tensor::zeros({1}, DType::f64));
    const Tensor keep = Tensor::zeros({2}, DType::f64);
    const auto norm = [&](const Variable& f, const Tensor& factors, const Variable& gamma) {
        return residual_norm(zeros({2, 3, 4}), f, factors, gamma, zeros({4}), 1e-6, none);
    };
    CHECK_NOTHROW(norm(zeros({2, 3, 4}), keep, zeros({4})));
    CHECK_THROWS_AS(norm(zeros({2, 4, 3}), keep, zeros({4})), Error);
    CHECK_THROWS_AS(norm(zeros({2, 3, 4}), keep, zeros({3})), Error);
    CHECK_THROWS_AS(norm(zeros({2, 3, 4}), Tensor::zeros({7}, DType::f64), zeros({4})), Error);
    // a residual sum alone is not this op's
    CHECK_THROWS_AS(sum(norm(zeros({2, 3, 4}), keep, zeros({4})).y).backward(), Error);

    const auto mix = [&](const Variable& w1, const Variable& b1, const Variable& w2) {
        return mlp(zeros({2, 3, 4}), w1, b1, none, w2, zeros({4}));
    };
    CHECK_NOTHROW(mix(zeros({5, 4}), zeros({5}), zeros({4, 5})));
    CHECK_THROWS_AS(mix(zeros({5, 3}), zeros({5}), zeros({4, 5})), Error);
    CHECK_THROWS_AS(mix(zeros({5, 4}), zeros({4}), zeros({4, 5})), Error);
    CHECK_THROWS_AS(mix(zeros({5, 4}), zeros({5}), zeros({4, 4})), Error);

    const auto attend = [&](const Quantized& x, const Variable& w, int64_t heads) {
        const Projection good{zeros({4, 4}), zeros({4}), none}, other{w, zeros({4}), none};
        return attention(x, {good, other, good, {}}, none, none, heads, 0.5);
    };
    CHECK_NOTHROW(attend(zeros({2, 3, 4}), zeros({4, 4}), 2));
    CHECK_THROWS_AS(attend(zeros({2, 3, 4}), zeros({4, 4}), 3), Error);
    CHECK_THROWS_AS(attend(zeros({6, 4}), zeros({4, 4}), 2), Error);
    CHECK_THROWS_AS(attend(zeros({2, 3, 4}), zeros({5, 4}), 2), Error);
    Quantized shifted = zeros({2, 3, 4});
    shifted.scale = shifted.offset = Tensor::zeros({1}, DType::f64);
    CHECK_THROWS_AS(attend(shifted, zeros({4, 4}), 2), Error);

    const Projection plain{zeros({4, 4}), {}, none};
    const auto with_matrix = [&](const vvtq::engine::Shape& shape) {
        return attention(zeros({2, 3, 4}), {plain, plain, plain, {Tensor::zeros(shape, DType::f64), {}}},
                         none, none, 2, 0.5);
    };
    CHECK_NOTHROW(with_matrix({12, 4}));
    CHECK_THROWS_AS(with_matrix({8, 4}), Error);

    CHECK_THROWS_AS(quantize(zeros({3}), none), Error);
    CHECK_NOTHROW(quantize(zeros({3}), step));
    CHECK_THROWS_AS(quantize_weights({}, DType::f64, false), Error);
    const WeightParameters follower{zeros({4, 4}), step, 4, true};
    CHECK_THROWS_AS(quantize_weights({follower}, DType::f64, false), Error);
}
