// Kernels that several processes need, against their equations: packing, sums of parts, merged moments.
#include <cmath>

#include "tests/unit/kernel_support.h"

using namespace vvtq::engine;
using namespace vvtq::tests;

TEST_CASE("kernels: pack writes its parts and leaves the rest", "[kernels]") {
    for_dtypes([](DType dtype, double) {
        const double third = vector_of({1.0 / 3}, dtype).item();
        const std::vector<PackItem> items = {{vector_of({1, -third, -0.0}, dtype), 5},
                                             {Tensor({0}, dtype), 9},
                                             {exact("matrix", Shape({100, 301}), dtype), 9},
                                             {vector_of({1e-41, kInfinity, kNaN}, dtype), 0}};
        const Tensor flat = Tensor::full({9 + 30100 + 1}, 7, dtype);
        cpu().pack(items, 1.0, flat);
        const std::vector<double> got = flat.to_vector(), matrix = items[2].part.to_vector();
        CHECK(got[0] == items[3].part.to_vector()[0]);
        CHECK(got[1] == kInfinity);
        CHECK(std::isnan(got[2]));
        CHECK(std::vector(got.begin() + 3, got.begin() + 9) == std::vector<double>{7, 7, 1, -third, 0, 7});
        CHECK(std::signbit(got[7]));
        CHECK(std::vector(got.begin() + 9, got.end() - 1) == matrix);
        CHECK(got.back() == 7);

        cpu().pack(items, 0.25, flat);
        CHECK(flat.to_vector()[6] == -third / 4);
        CHECK_THROWS_AS(cpu().pack({{vector_of({1, 2}, dtype), flat.numel() - 1}}, 1.0, flat), Error);
        CHECK_THROWS_AS(cpu().pack({{vector_of({1, 2}, dtype), -1}}, 1.0, flat), Error);
        CHECK_THROWS_AS(cpu().pack({{vector_of({1, 2}, DType::i32), 0}}, 1.0, flat), Error);
    });
}

TEST_CASE("kernels: pack rounds to bf16", "[kernels]") {
    const Tensor x = vector_of({1 + 1.0 / 256, 1 + 3.0 / 256, 0.1, -5}, DType::f32);
    const Tensor flat = Tensor::from({7, 7, 7, 7, 7, 7}, {6}, DType::bf16);
    cpu().pack({{x, 1}}, 1.0, flat);
    CHECK(flat.to_vector() == std::vector<double>{7, 1, 1 + 4.0 / 256, 0.10009765625, -5, 7});
    cpu().pack({{x, 0}}, 0.5, flat);
    CHECK(flat.to_vector()[3] == -2.5);
    CHECK_THROWS_AS(cpu().pack({{x.to(DType::f64), 0}}, 1.0, flat), Error);
}

TEST_CASE("kernels: sum_parts adds in the order of the parts", "[kernels]") {
    for_dtypes([](DType dtype, double) {
        // (big + 1) - big is 0, big - big + 1 is 1
        const double big = dtype == DType::f32 ? std::ldexp(1.0, 25) : std::ldexp(1.0, 55);
        const Tensor parts = Tensor::from({big, big, 1, -big, -big, 1}, {3, 2}, dtype);
        const Tensor y({2}, dtype);
        cpu().sum_parts(parts, 0.5, y);
        CHECK(y.to_vector() == std::vector<double>{0, 0.5});
        cpu().sum_parts(parts, 1.0, parts.slice(0, 1));
        CHECK(parts.to_vector() == std::vector<double>{0, 1, 1, -big, -big, 1});
        for (const int64_t n : {0, 1, 255, 257, 40001}) {
            const Tensor some = exact("parts", Shape({5, n}), dtype), sum({n}, dtype);
            cpu().sum_parts(some, 0.3, sum);
            Tensor expected = some.slice(0, 1).clone();
            for (int64_t s = 1; s < 5; ++s) cpu().accumulate_add(some.slice(s, s + 1), expected);
            cpu().scale(expected, 0.3, expected);
            CHECK(sum.to_vector() == expected.to_vector());
        }
        CHECK_THROWS_AS(cpu().sum_parts(parts, 1.0, Tensor({3}, dtype)), Error);
        CHECK_THROWS_AS(cpu().sum_parts(parts, 1.0, Tensor({2}, DType::i32)), Error);
    });
}

TEST_CASE("kernels: merge_moments gives the moments of the joined rows", "[kernels]") {
    for_dtypes([](DType dtype, double tolerance) {
        for (const int64_t count : {1, 2, 5}) {
            const int64_t rows = 40, cols = 31;
            const Tensor x = exact("x", Shape({count * rows, cols}), dtype, 1.0, 0.5);
            const Tensor parts({count, 2, cols}, dtype), merged({2, cols}, dtype), joined({2, cols}, dtype);
            for (int64_t w = 0; w < count; ++w) {
                const Tensor part = parts.slice(w, w + 1).reshape({2, cols});
                cpu().column_moments(x.slice(w * rows, (w + 1) * rows), part.slice(0, 1), part.slice(1, 2));
            }
            cpu().merge_moments(parts, merged.slice(0, 1), merged.slice(1, 2));
            cpu().column_moments(x, joined.slice(0, 1), joined.slice(1, 2));
            CHECK(relative_error(merged.to_vector(), joined.to_vector()) <= 4 * tolerance);
        }
        const Tensor mean({3}, dtype);
        CHECK_THROWS_AS(cpu().merge_moments(Tensor({2, 2, 2}, dtype), mean, mean.clone()), Error);
        CHECK_THROWS_AS(cpu().merge_moments(Tensor({0, 2, 3}, dtype), mean, mean.clone()), Error);
    });
}

TEST_CASE("kernels: batch_norm_relu_sums and its backward by hand", "[kernels]") {
    for_dtypes([](DType dtype, double tolerance) {
        // one column: mean 2, variance 4, xhat = (x - 2) / 2; gamma 3, beta 1: n = 4, -2, 1
        const Tensor x = Tensor::from({4, 0, 2}, {3, 1}, dtype),
                     dy = Tensor::from({1, 10, 100}, {3, 1}, dtype);
        const auto one = [&](double value) { return vector_of({value}, dtype); };
        const Tensor mean = one(2), variance = one(4), gamma = one(3), beta = one(1);
        const Tensor dgamma({1}, dtype), dbeta({1}, dtype), dx = x.like();
        cpu().batch_norm_relu_sums(dy, x, mean, variance, gamma, beta, 0.0, dgamma, dbeta);
        CHECK(relative_error(dgamma.to_vector(), {1.0}) <= tolerance);
        CHECK(relative_error(dbeta.to_vector(), {101.0}) <= tolerance);
        cpu().batch_norm_relu_backward(dy, x, mean, variance, gamma, beta, 0.0, one(8), one(16), 0.125, dx);
        // 3 / 2 (dn - (16 + 8 xhat) / 8)
        CHECK(relative_error(dx.to_vector(), {-3.0, -1.5, 147.0}) <= tolerance);
        cpu().batch_norm_relu_backward(dy, x, mean, variance, gamma, beta, 0.0, one(8), one(16), 0.0, dx);
        CHECK(relative_error(dx.to_vector(), {1.5, 0.0, 150.0}) <= tolerance);
    });
}
