#include <cmath>
#include <limits>
#include <thread>

#include "autograd/ops.h"
#include "engine/kernels.h"
#include "tests/catch.h"
#include "tests/quant_params.h"

using namespace vvtq::autograd;
using vvtq::engine::DType;
using vvtq::engine::Error;
using vvtq::engine::Fault;
using vvtq::engine::Shape;

namespace {

Tensor values(const std::vector<double>& v) {
    return Tensor::from(v, {static_cast<int64_t>(v.size())}, DType::f64);
}
Variable leaf(const std::vector<double>& v) { return Variable(values(v), true); }
std::vector<double> grad_of(const Variable& x) { return x.grad().to_vector(); }

/// y = x, made without kernels so that long tapes are quick.
Variable same(const Variable& x) {
    return record("test.same", x.value(), {x}, [](const Tensor& dy, Gradients& dx) { dx.set(0, dy); });
}

Variable no_backward(const Variable& x) { return record("test.no_backward", x.value(), {x}, nullptr); }

template <typename F>
std::string message_of(Fault fault, F&& f) {
    try {
        f();
    } catch (const Error& error) {
        CHECK(error.fault() == fault);
        return error.what();
    }
    FAIL("nothing was thrown");
    return {};
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("autograd: gradients of a diamond add up", "[autograd]") {
    const Variable x = leaf({1, 2});
    const Variable a = scale(x, 3);
    const Variable b = add(a, scale(a, 5));  // 6 a, a used twice
    sum(add(b, a)).backward();               // 7 a = 21 x
    CHECK(grad_of(x) == std::vector<double>{21, 21});
}

TEST_CASE("autograd: the same variable twice in one op", "[autograd]") {
    const Variable x = leaf({1, 2});
    sum(add(x, x)).backward();
    CHECK(grad_of(x) == std::vector<double>{2, 2});
}

TEST_CASE("autograd: the sum over many users equals the closed form", "[autograd]") {
    const Variable x = leaf({1.5});
    Variable total = scale(x, 1);
    for (int i = 2; i <= 100; ++i) {
        total = add(total, scale(x, i));
    }
    total.backward();
    CHECK(grad_of(x) == std::vector<double>{5050});
}

TEST_CASE("autograd: gradients collect over walks until they are cleared", "[autograd]") {
    Variable x = leaf({1, 2});
    sum(scale(x, 2)).backward();
    const Tensor first = x.grad();
    sum(scale(x, 3)).backward();
    CHECK(grad_of(x) == std::vector<double>{5, 5});
    CHECK(first.to_vector() == std::vector<double>{2, 2});  // a handle that someone kept does not change
    x.clear_grad();
    CHECK_FALSE(x.grad().defined());
}

TEST_CASE("autograd: gradients of leaves have memory of their own", "[autograd]") {
    const Variable a = leaf({1, 2}), b = leaf({3, 4}), c = leaf({5, 6});
    const Tensor upstream = values({1, 10});
    add(add(a, b), reshape(c, {2})).backward(upstream);  // all three gradients are the upstream tensor
    for (const Variable& x : {a, b, c}) {
        CHECK(x.grad().sole_owner());
        vvtq::engine::kernels(vvtq::engine::Device::cpu).fill(7, x.grad());
    }
    CHECK(upstream.to_vector() == std::vector<double>{1, 10});
    CHECK(grad_of(a) == std::vector<double>{7, 7});
}

TEST_CASE("autograd: backward from a leaf", "[autograd]") {
    const Variable x = leaf({1});
    x.backward();
    CHECK(grad_of(x) == std::vector<double>{1});
    CHECK_THROWS_AS(Variable(values({1})).backward(), Error);
}

TEST_CASE("autograd: constants get no gradient and are not computed for", "[autograd]") {
    const Variable x = leaf({1}), constant(values({2}));
    const Variable y =
        record("test.wanted", values({2}), {x, constant, Variable()}, [](const Tensor& dy, Gradients& dx) {
            CHECK(dx.wanted(0));
            CHECK_FALSE(dx.wanted(1));
            CHECK_FALSE(dx.wanted(2));  // an undefined input stands for none
            dx.set(0, dy);
            dx.set(1, dy);
        });
    y.backward();
    CHECK(grad_of(x) == std::vector<double>{1});
    CHECK_FALSE(constant.grad().defined());
}

TEST_CASE("autograd: an op without a backward throws when a gradient is asked through it", "[autograd]") {
    const Variable x = leaf({1});
    const Variable y = add(scale(x, 2), no_backward(x));
    CHECK(contains(message_of(Fault::internal, [&] { y.backward(); }), "test.no_backward"));
    CHECK(contains(message_of(Fault::internal, [&] { no_backward(x).backward(); }), "test.no_backward"));
    CHECK_NOTHROW(add(scale(x, 2), no_backward(Variable(x.value()))).backward());
}

TEST_CASE("autograd: a backward that forgets an input throws", "[autograd]") {
    const Variable x = leaf({1});
    const Variable y = record("test.forgets", values({1}), {x}, [](const Tensor&, Gradients&) {});
    CHECK(contains(message_of(Fault::internal, [&] { y.backward(); }), "test.forgets"));
}

TEST_CASE("autograd: gradients of the wrong shape or dtype throw", "[autograd]") {
    const Variable x = leaf({1, 2});
    const auto with = [&](const Tensor& gradient) {
        return record("test.wrong", values({1}), {x},
                      [gradient](const Tensor&, Gradients& dx) { dx.set(0, gradient); });
    };
    CHECK_THROWS_AS(with(values({1, 2, 3})).backward(), Error);
    CHECK_THROWS_AS(with(Tensor::zeros({2}, DType::f32)).backward(), Error);
    CHECK_THROWS_AS(with(Tensor()).backward(), Error);
    CHECK_NOTHROW(with(values({1, 2})).backward());
}

TEST_CASE("autograd: a tape can be walked once", "[autograd]") {
    const Variable x = leaf({1});
    const Variable inner = scale(x, 2);
    const Variable y = scale(inner, 3), z = scale(inner, 4);
    y.backward();
    CHECK_THROWS_AS(y.backward(), Error);
    CHECK_THROWS_AS(z.backward(), Error);  // shares a part that is gone
    CHECK(grad_of(x) == std::vector<double>{6});
}

TEST_CASE("autograd: backward needs a scalar or an upstream gradient of the same shape", "[autograd]") {
    const Variable x = leaf({1, 2});
    CHECK_THROWS_AS(scale(x, 2).backward(), Error);
    CHECK_THROWS_AS(scale(x, 2).backward(values({1})), Error);
    CHECK_THROWS_AS(scale(x, 2).backward(Tensor::zeros({2}, DType::f32)), Error);
}

TEST_CASE("autograd: NoGrad records nothing and nests", "[autograd]") {
    const Variable x = leaf({1});
    {
        const NoGrad outer;
        { const NoGrad inner; }
        CHECK_FALSE(scale(x, 2).requires_grad());
    }
    CHECK(scale(x, 2).requires_grad());
    bool other_thread = false;
    {
        const NoGrad here;
        std::thread([&] { other_thread = scale(x, 2).requires_grad(); }).join();
    }
    CHECK(other_thread);
}

TEST_CASE("autograd: set_value keeps shape and dtype and is for leaves", "[autograd]") {
    Variable x = leaf({1, 2});
    x.set_value(values({3, 4}));
    CHECK(x.value().to_vector() == std::vector<double>{3, 4});
    CHECK_THROWS_AS(x.set_value(values({1})), Error);
    CHECK_THROWS_AS(x.set_value(Tensor::zeros({2}, DType::f32)), Error);
    Variable y = scale(x, 2);
    CHECK_THROWS_AS(y.set_value(values({1, 2})), Error);
    CHECK_THROWS_AS(Variable(Tensor({1}, DType::i64), true), Error);
    CHECK_THROWS_AS(Variable().value(), Error);
}

TEST_CASE("autograd: FiniteCheck names the op and the layer", "[autograd]") {
    const Variable x = leaf({1, std::numeric_limits<double>::infinity()});
    CHECK_NOTHROW(scale(x, 2));
    const FiniteCheck check;
    const Scope block("blocks.3"), layer("attn");
    CHECK(Scope::current() == "blocks.3.attn");
    const std::string message = message_of(Fault::run, [&] { scale(x, 2); });
    CHECK(contains(message, "scale"));
    CHECK(contains(message, "blocks.3.attn"));
    CHECK_NOTHROW(scale(leaf({1, 2}), 2));
}

TEST_CASE("autograd: scopes close in order", "[autograd]") {
    CHECK(Scope::current().empty());
    {
        const Scope a("a");
        {
            const Scope b("b.c");
            CHECK(Scope::current() == "a.b.c");
        }
        CHECK(Scope::current() == "a");
    }
    CHECK(Scope::current().empty());
}

TEST_CASE("autograd: the tape holds no values that backward does not need", "[autograd]") {
    const auto& pool = vvtq::engine::pool(vvtq::engine::Device::cpu);
    const Variable x(Tensor::zeros({1 << 16}, DType::f32), true);
    const size_t before = pool.in_use();
    Variable y = scale(x, 2);
    for (int i = 0; i < 10; ++i) {
        y = scale(y, 2);
    }
    CHECK(pool.in_use() - before <= size_t{2} * x.value().bytes());  // y alone
}

TEST_CASE("autograd: backward frees saved tensors on the way", "[autograd]") {
    auto& pool = vvtq::engine::pool(vvtq::engine::Device::cpu);
    const Variable x(Tensor::full({1 << 16}, 0.5, DType::f32), true);
    const size_t bytes = x.value().bytes();
    const size_t start = pool.in_use();
    Variable y = gelu(x);
    for (int i = 0; i < 19; ++i) {
        y = gelu(y);
    }
    const Variable loss = sum(y);
    y = Variable();
    const size_t before = pool.in_use();
    CHECK(before >= start + 19 * bytes);  // the inputs of the gelus
    pool.reset_peak();
    loss.backward();
    CHECK(pool.peak() <= before + 5 * bytes);      // gradients in flight only
    CHECK(pool.in_use() <= start + bytes + 4096);  // x's gradient
}

TEST_CASE("autograd: a million ops deep", "[autograd]") {
    constexpr int kDepth = 1000000;
    const Variable x = leaf({1});
    const auto chain = [&] {
        Variable y = x;
        for (int i = 0; i < kDepth; ++i) {
            y = same(y);
        }
        return y;
    };
    chain();  // dropped without a walk
    CHECK_FALSE(x.grad().defined());
    chain().backward();
    CHECK(grad_of(x) == std::vector<double>{1});
}

TEST_CASE("autograd: a deep ladder, where every value is used twice", "[autograd]") {
    const Variable x = leaf({1});
    const auto ladder = [&] {
        Variable y = x;
        for (int i = 0; i < 50000; ++i) {
            y = record("test.half", y.value(), {y, y}, [](const Tensor& dy, Gradients& dx) {
                const Tensor half = dy.like();
                vvtq::engine::kernels(dy.device()).scale(dy, 0.5, half);
                dx.set(0, half);
                dx.set(1, half);
            });
        }
        return y;
    };
    ladder();
    ladder().backward();
    CHECK(grad_of(x) == std::vector<double>{1});
}

TEST_CASE("autograd: ops refuse shapes that do not fit", "[autograd]") {
    const auto zeros = [](const Shape& shape) { return Variable(Tensor::zeros(shape, DType::f64)); };
    const Tensor one = Tensor::zeros({1}, DType::f64);
    CHECK_THROWS_AS(add(zeros({2}), zeros({3})), Error);
    CHECK_THROWS_AS(add_broadcast(zeros({2, 3}), zeros({4})), Error);
    CHECK_THROWS_AS(residual(zeros({2, 3}), zeros({2, 3}), Tensor::zeros({3}, DType::f64)), Error);
    CHECK_THROWS_AS(reshape(zeros({2, 3}), {5}), Error);
    CHECK_THROWS_AS(layer_norm(zeros({2, 3}), zeros({2}), zeros({3}), 1e-6), Error);
    CHECK_THROWS_AS(soft_cross_entropy(zeros({2, 3}), Tensor::zeros({2, 4}, DType::f64)), Error);
    CHECK_THROWS_AS(linear(zeros({2, 3}), zeros({4, 2}), {}), Error);
    CHECK_THROWS_AS(linear(zeros({2, 3}), zeros({4, 3}), zeros({3})), Error);
    CHECK_THROWS_AS(attention_scores(zeros({1, 2, 5}), zeros({1, 2, 5}), 2), Error);
    CHECK_THROWS_AS(attention_apply(zeros({1, 2, 3, 3}), zeros({1, 4, 6})), Error);
    CHECK_THROWS_AS(patchify(zeros({1, 3, 8, 9}), 4), Error);
    CHECK_THROWS_AS(prepend_token(zeros({1, 1, 3}), zeros({2, 4, 5})), Error);
    CHECK_THROWS_AS(select_token(zeros({2, 4, 5}), 4), Error);
    CHECK_THROWS_AS(lsq(zeros({3}), vvtq::tests::quant_params(zeros({2}), {}, {-2, 1}, one)), Error);
    CHECK_THROWS_AS(binary(zeros({2, 3, 4}), {3}), Error);
    CHECK_THROWS_AS(quantize_weights({{zeros({2}), vvtq::tests::quant_params(zeros({2}), {}, {-2, 1}), 4}},
                                     DType::f64, true),
                    Error);
}
