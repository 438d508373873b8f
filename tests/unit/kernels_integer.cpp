// Integer products against plain loops: every sign, odd sizes, and the largest sums.
#include <numeric>

#include "engine/kernels.h"
#include "engine/random.h"
#include "tests/catch.h"

namespace vvtq {
namespace {

using engine::DType;
using engine::Tensor;

/// Codes in [low, high], or all `low` and `high` in turn.
std::vector<int> codes(int64_t n, int low, int high, bool extreme, uint64_t seed) {
    engine::Random random(seed);
    std::vector<int> values;
    for (int64_t i = 0; i < n; ++i) {
        const auto drawn = static_cast<int>(random.below(static_cast<uint64_t>(high - low + 1)));
        values.push_back(extreme ? (i % 3 == 2 ? low : high) : low + drawn);
    }
    return values;
}

template <typename Q>
Tensor tensor_of(const std::vector<int>& values, const engine::Shape& shape, DType dtype) {
    Tensor t(shape, dtype);
    std::copy(values.begin(), values.end(), t.data<Q>());
    return t;
}

struct Operands {
    int64_t rows, outputs, inputs;
    bool is_signed;
    std::vector<int> x, w;
    Tensor tx, packed;

    Operands(int64_t m, int64_t n, int64_t k, bool of_i8, bool extreme)
        : rows(m),
          outputs(n),
          inputs(k),
          is_signed(of_i8),
          x(codes(m * k, of_i8 ? -128 : 0, of_i8 ? 127 : 255, extreme, 1)),
          w(extreme ? std::vector<int>(static_cast<size_t>(n * k), -128) : codes(n * k, -128, 127, false, 2)),
          packed({engine::packed_bytes(n, k)}, DType::i8) {
        if (extreme) std::fill(x.begin(), x.end(), of_i8 ? -128 : 255);
        tx = of_i8 ? tensor_of<int8_t>(x, {m, k}, DType::i8) : tensor_of<uint8_t>(x, {m, k}, DType::u8);
        engine::kernels(engine::Device::cpu).pack_codes(tensor_of<int8_t>(w, {n, k}, DType::i8), packed);
    }
    int64_t sum(int64_t r, int64_t n) const {
        int64_t total = 0;
        for (int64_t k = 0; k < inputs; ++k) {
            total += int64_t{x[static_cast<size_t>(r * inputs + k)]} * w[static_cast<size_t>(n * inputs + k)];
        }
        return total;
    }
};

}  // namespace

TEST_CASE("integer products are exact, by instructions and by plain loops") {
    const bool extreme = GENERATE(false, true), is_signed = GENERATE(false, true);
    const auto [m, n, k] = GENERATE(table<int64_t, int64_t, int64_t>(
        {{1, 1, 1}, {7, 17, 3}, {13, 64, 64}, {5, 230, 461}, {3, 70, 3072}, {50, 130, 921}}));
    INFO(m << " x " << n << " x " << k << (is_signed ? " of i8" : " of u8") << (extreme ? ", extreme" : ""));
    const Operands of(m, n, k, is_signed, extreme);
    for (const bool instructions : {true, false}) {
        engine::use_code_instructions(instructions);
        const Tensor y({m, n}, DType::f32);
        engine::kernels(engine::Device::cpu).linear_codes(of.tx, of.packed, {}, {}, false, {}, y);
        int64_t wrong = 0;
        for (int64_t r = 0; r < m; ++r) {
            for (int64_t c = 0; c < n; ++c) {
                wrong += y.data<float>()[r * n + c] != static_cast<float>(of.sum(r, c)) ? 1 : 0;
            }
        }
        CHECK(wrong == 0);
    }
    engine::use_code_instructions(true);
}

TEST_CASE("linear_codes: scale, bias, GELU and quantizer are those of the kernels one by one") {
    const auto [m, n, k] =
        GENERATE(table<int64_t, int64_t, int64_t>({{1, 5, 7}, {50, 130, 64}, {97, 230, 63}}));
    const Operands of(m, n, k, GENERATE(false, true), false);
    const auto& kernel = engine::kernels(engine::Device::cpu);
    const Tensor scale = Tensor::from({3e-5}, {1}, DType::f32);
    std::vector<double> biases(static_cast<size_t>(n));
    std::iota(biases.begin(), biases.end(), -0.5 * static_cast<double>(n));
    const Tensor bias = Tensor::from(biases, {n}, DType::f32);
    const Tensor y({m, n}, DType::f32);
    kernel.linear_codes(of.tx, of.packed, scale, bias, false, {}, y);
    std::vector<double> w(of.w.begin(), of.w.end());
    const Tensor expected = y.like();
    kernel.linear(of.tx.to(DType::f32), Tensor::from(w, {n, k}, DType::f32), scale, bias, expected);
    CHECK(y.to_vector() == expected.to_vector());
    const engine::QuantParams quantizer{Tensor::from({0.3}, {1}, DType::f32),
                                        Tensor::from({0.1}, {1}, DType::f32),
                                        engine::range_tensor({0, 15}, engine::Device::cpu),
                                        {}};
    for (const bool gelu : {false, true}) {
        const Tensor q({m, n}, DType::u8), as_float = y.like();
        kernel.linear_codes(of.tx, of.packed, scale, bias, gelu, quantizer, q);
        if (gelu) kernel.gelu(expected, expected);
        kernel.lsq_codes(expected, quantizer, as_float);
        CHECK(q.to_vector() == as_float.to_vector());
    }
}

TEST_CASE("attention_codes is `attention` on integer codes") {
    const int64_t batch = 2, tokens = 10, heads = GENERATE(1, 3), width = GENERATE(5, 16);
    const int64_t channels = heads * width, groups = GENERATE(1, 2);
    const Operands of(batch * tokens, 3 * channels, channels, true, false);
    const auto& kernel = engine::kernels(engine::Device::cpu);
    const auto step = [](double a, engine::CodeRange range) {
        return engine::QuantParams{
            Tensor::from({a}, {1}, DType::f32), {}, engine::range_tensor(range, engine::Device::cpu), {}};
    };
    engine::AttentionProblem problem{};
    problem.input_scale = Tensor::from({0.01}, {1}, DType::f32);
    for (size_t t = 0; t < 3; ++t) {
        problem.weight_scale[t] = Tensor::from({0.002 + 0.001 * static_cast<double>(t)}, {1}, DType::f32);
        problem.bias[t] = Tensor::full({channels}, 0.1, DType::f32);
    }
    problem.q = step(0.2, {-8, 7});
    problem.k = step(0.3, {-8, 7});
    problem.v = step(0.4, {-8, 7});
    problem.probability = step(0.05, GENERATE(engine::CodeRange{0, 15}, engine::CodeRange{-8, 7}));
    if (GENERATE(false, true)) problem.output = step(0.1, {-8, 7});
    problem.heads = heads;
    problem.scale = 0.25;
    problem.groups = groups;
    if (groups == 2) {
        problem.order = Tensor::from({9, 1, 2, 3, 4, 5, 6, 7, 8, 0}, {tokens}, DType::i32);
        problem.inverse = problem.order;
    }
    const int64_t n = tokens / groups;
    std::vector<double> added(static_cast<size_t>(heads * n * n));
    std::iota(added.begin(), added.end(), 0.0);
    for (double& value : added) value *= 0.01;
    problem.score_bias = Tensor::from(added, {heads, n, n}, DType::f32);
    const engine::Shape shape{batch, tokens, channels};
    const Tensor z({batch, tokens, 3 * channels}, DType::f32), o(shape, DType::f32), codes = o.like();
    kernel.linear_codes(of.tx, of.packed, {}, {}, false, {}, z.reshape({batch * tokens, 3 * channels}));
    const bool coded = problem.output.defined();
    kernel.attention(z, problem, o, coded ? codes : Tensor(), {});
    const Tensor y(shape, coded ? DType::i8 : DType::f32);
    kernel.attention_codes(of.tx.reshape(shape), of.packed, problem, y);
    CHECK(y.to_vector() == (coded ? codes : o).to_vector());
}

}  // namespace vvtq
