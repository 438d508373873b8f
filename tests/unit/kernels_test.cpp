// Kernels that no differentiable op runs, against their equations, and edge values of the others.
#include <cmath>

#include "tests/unit/kernel_support.h"

using namespace vvtq::engine;
using namespace vvtq::tests;

TEST_CASE("kernels: fill and copy", "[kernels]") {
    for_sizes_and_dtypes([](int64_t n, DType dtype, double) {
        const Tensor y({n}, dtype);
        cpu().fill(-1.5, y);
        CHECK(y.to_vector() == std::vector<double>(static_cast<size_t>(n), -1.5));
        const std::vector<double> x = exact("copy", n, 3.0);
        cpu().copy(vector_of(x, dtype), y);
        CHECK(y.to_vector() == x);
        CHECK_THROWS_AS(cpu().copy(Tensor({n + 1}, dtype), y), Error);
    });
}

TEST_CASE("kernels: cast between floating types and from integers", "[kernels]") {
    for (const int64_t n : {1, 31, 40000}) {
        const std::vector<double> x = fill("cast", n, 3.0);
        const Tensor wide = vector_of(x, DType::f64), narrow({n}, DType::f32), back({n}, DType::f64);
        cpu().cast(wide, narrow);
        cpu().cast(narrow, back);
        std::vector<double> rounded = x;
        for (double& value : rounded) {
            value = static_cast<float>(value);
        }
        CHECK(back.to_vector() == rounded);
    }
    const Tensor bytes({3}, DType::u8), codes({3}, DType::i32), counts({3}, DType::i64);
    for (int i = 0; i < 3; ++i) {
        bytes.data<uint8_t>()[i] = static_cast<uint8_t>(127 * i + 1);
        codes.data<int32_t>()[i] = -100000 * i;
        counts.data<int64_t>()[i] = int64_t{1} << (16 * i);
    }
    for (const DType dtype : {DType::f32, DType::f64}) {
        const Tensor y({3}, dtype);
        cpu().cast(bytes, y);
        CHECK(y.to_vector() == std::vector<double>{1, 128, 255});
        cpu().cast(codes, y);
        CHECK(y.to_vector() == std::vector<double>{0, -100000, -200000});
        cpu().cast(counts, y);
        CHECK(y.to_vector() == std::vector<double>{1, 65536, 4294967296});
    }
}

TEST_CASE("kernels: accumulate_add adds to what is there", "[kernels]") {
    for_sizes_and_dtypes([](int64_t n, DType dtype, double tolerance) {
        const std::vector<double> x = exact("x", n, 1.0), before = exact("y", n, 2.0);
        const Tensor y = vector_of(before, dtype);
        cpu().accumulate_add(vector_of(x, dtype), y);
        std::vector<double> expected = before;
        for (size_t i = 0; i < x.size(); ++i) {
            expected[i] += x[i];
        }
        CHECK(relative_error(y.to_vector(), expected) <= tolerance);
    });
}

TEST_CASE("kernels: random_permutation is a permutation of the key's, and its inverse fits", "[kernels]") {
    const auto drawn = [](double key, int64_t salt, int64_t n) {
        const Tensor index({n}, DType::i32), inverse({n}, DType::i32);
        cpu().random_permutation(Tensor::from({key}, {1}, DType::i64), salt, index, inverse);
        std::vector<double> order(static_cast<size_t>(n)), sorted(order.size());
        for (size_t i = 0; i < order.size(); ++i) {
            order[i] = index.data<int32_t>()[i];
            CHECK(inverse.data<int32_t>()[index.data<int32_t>()[i]] == static_cast<int32_t>(i));
            sorted.at(static_cast<size_t>(order[i])) += 1;
        }
        CHECK(sorted == std::vector<double>(sorted.size(), 1.0));
        return order;
    };
    CHECK(drawn(3, 0, 1) == std::vector<double>{0});
    const std::vector<double> order = drawn(3, 1, 197);
    CHECK(order == drawn(3, 1, 197));
    CHECK(order != drawn(3, 2, 197));
    CHECK(order != drawn(4, 1, 197));
}

TEST_CASE("kernels: running moments move by the momentum, the variance without bias", "[kernels]") {
    const auto pair = [](double a, double b) { return Tensor::from({a, b}, {2}, DType::f64); };
    const Tensor running_mean = pair(0, 1), running_variance = pair(1, 1);
    const Tensor count = Tensor::from({4}, {1}, DType::f64);
    cpu().update_running_stats(pair(1, -2), pair(3, 6), 4, 0.25, running_mean, running_variance, count);
    CHECK(running_mean.to_vector() == std::vector<double>{0.25, 0.25});
    CHECK(relative_error(running_variance.to_vector(), {0.75 + 0.25 * 4, 0.75 + 0.25 * 8}) <= 1e-15);
    CHECK(count.item() == 5);
}

TEST_CASE("kernels: sums of absolute values and squares", "[kernels]") {
    for_sizes_and_dtypes([](int64_t n, DType dtype, double tolerance) {
        const std::vector<double> x = exact("sums", n, 1.0, 0.2);
        double absolute = 0, squares = 0;
        for (const double value : x) {
            absolute += std::abs(value);
            squares += value * value;
        }
        const Tensor y({1}, DType::f64);
        cpu().sum_abs(vector_of(x, dtype), y);
        CHECK(relative_error(y.to_vector(), {absolute}) <= 10 * tolerance);
        cpu().sum_squares(vector_of(x, dtype), y);
        CHECK(relative_error(y.to_vector(), {squares}) <= 10 * tolerance);
    });
}

TEST_CASE("kernels: count_not_finite counts NaN and both infinities", "[kernels]") {
    for_sizes_and_dtypes([](int64_t n, DType dtype, double) {
        std::vector<double> x = exact("finite", n, 1e30);
        const Tensor count({1}, DType::i64);
        cpu().count_not_finite(vector_of(x, dtype), count);
        CHECK(count.item() == 0);
        x.front() = kNaN;
        x[x.size() / 2] = -kInfinity;
        x.back() = kInfinity;
        cpu().count_not_finite(vector_of(x, dtype), count);
        CHECK(count.item() == (n == 1 ? 1 : 3));
    });
}

TEST_CASE("kernels: lsq codes are rounded to even and clamped", "[kernels]") {
    for (const DType dtype : {DType::f32, DType::f64}) {
        const Tensor x = vector_of({-100, -1.25, -0.75, -0.25, 0, 0.25, 0.75, 1.25, 1.75, 100}, dtype);
        const Tensor alpha = vector_of({0.5}, dtype), offset = vector_of({-1}, dtype);
        for (const Tensor& q : {Tensor({10}, DType::i32), Tensor({10}, dtype)}) {
            cpu().lsq_codes(x, kernel_params(alpha, {}, CodeRange::signed_bits(3)), q);
            CHECK(q.to_vector() == std::vector<double>{-4, -2, -2, 0, 0, 0, 2, 2, 3, 3});
            cpu().lsq_codes(x, kernel_params(alpha, offset, CodeRange::unsigned_bits(2)), q);
            CHECK(q.to_vector() == std::vector<double>{0, 0, 0, 2, 2, 2, 3, 3, 3, 3});
        }
        CHECK_THROWS_AS(
            cpu().lsq_codes(x, kernel_params(alpha, {}, CodeRange::signed_bits(3)), Tensor({9}, dtype)),
            Error);
    }
}

TEST_CASE("kernels: steps below 1e-4 are taken as 1e-4", "[kernels]") {
    const Tensor x = vector_of(fill("tiny", 197, 3e-4), DType::f64);
    const Tensor expected = x.like();
    cpu().lsq(x, kernel_params(vector_of({1e-4}, DType::f64), {}, {-2, 1}), expected);
    for (const double step : {0.0, 1e-9, -0.3}) {
        const Tensor y = x.like();
        cpu().lsq(x, kernel_params(vector_of({step}, DType::f64), {}, {-2, 1}), y);
        CHECK(y.to_vector() == expected.to_vector());
    }
}

TEST_CASE("kernels: NaN in means NaN out of the quantizer", "[kernels]") {
    for (const DType dtype : {DType::f32, DType::f64}) {
        const Tensor y({3}, dtype);
        cpu().lsq(vector_of({0.1, kNaN, 0.1}, dtype), kernel_params(vector_of({0.1}, dtype), {}, {-2, 1}), y);
        CHECK(std::isfinite(y.to_vector()[0]));
        CHECK(std::isnan(y.to_vector()[1]));
        cpu().lsq(vector_of({0.1, 0.2, 0.1}, dtype), kernel_params(vector_of({kNaN}, dtype), {}, {-2, 1}), y);
        CHECK(std::isnan(y.to_vector()[0]));
    }
}

TEST_CASE("kernels: gradient scale of weights", "[kernels]") {
    for_sizes_and_dtypes([](int64_t n, DType dtype, double tolerance) {
        const std::vector<double> w = exact("weights", n, 0.7);
        double total = 0;
        for (const double value : w) {
            total += std::abs(value);
        }
        const Tensor g({1}, dtype);
        cpu().lsq_weight_grad_scale(vector_of(w, dtype), kernel_params(g, {}, CodeRange::signed_bits(4)), g);
        CHECK(relative_error(g.to_vector(), {1 / std::sqrt(total * 7)}) <= 10 * tolerance);
    });
}

TEST_CASE("kernels: sums for the least-squares step", "[kernels]") {
    for_sizes_and_dtypes([](int64_t n, DType dtype, double) {
        const std::vector<double> x = exact("fit", n, 0.7);
        const double a = 0.13, o = -0.2;
        std::vector<double> expected(3, 0.0);
        for (const double value : x) {
            const double q = std::nearbyint(std::min(std::max((value - o) / a, 0.0), 7.0));
            expected[0] += (value - o) * q;
            expected[1] += q * q;
            expected[2] += value - a * q;
        }
        const Tensor sums({3}, DType::f64);
        cpu().lsq_fit_sums(vector_of(x, dtype), a, o, CodeRange::unsigned_bits(3), sums);
        CHECK(relative_error(sums.to_vector(), expected) <= 1e-13);
    });
}

TEST_CASE("kernels: sign(0) is 0, and gradients pass up to |x| = 1", "[kernels]") {
    for (const DType dtype : {DType::f32, DType::f64}) {
        const Tensor x = Tensor::from({0, -0.0, 1, -1, 1.5, -3.5}, {1, 3, 2}, dtype);
        const Tensor s({1}, dtype), columns({1, 2}, dtype), y = x.like();
        cpu().binary_scale(x, s);
        CHECK(s.item() == Approx(7.0 / 6));
        cpu().binary_scale(x, columns);
        CHECK(relative_error(columns.to_vector(), {2.5 / 3, 4.5 / 3}) <= 1e-6);
        cpu().binary(x, vector_of({2}, dtype), y);
        CHECK(y.to_vector() == std::vector<double>{0, 0, 2, -2, 2, -2});
        cpu().binary_backward(Tensor::full({1, 3, 2}, 3, dtype), x, y);
        CHECK(y.to_vector() == std::vector<double>{3, 3, 3, 3, 0, 0});
    }
}
