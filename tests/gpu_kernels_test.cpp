// Kernels that no row of the op table runs, on the GPU against the CPU or their equations.
#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/catch.h"
#include "tests/golden_inputs.h"
#include "tests/gpu_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::DType;
using engine::Shape;
using engine::Tensor;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Allowed relative L2 error of single operations: f32 arithmetic, and one rounding to bf16, at most 2^-9.
double single_tolerance(DType dtype) { return dtype == DType::bf16 ? 3e-3 : 1e-6; }

/// Runs `check` for both dtypes of activations.
template <typename F>
void for_activations(F&& check) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        INFO(engine::name_of(dtype));
        check(dtype);
    }
}

Tensor gpu_tensor(const std::string& name, const Shape& shape, DType dtype, double scale,
                  double offset = 0.0) {
    return Tensor::from(exact_fill(dtype, name, shape.numel(), scale, offset), shape, dtype, kGpu);
}

}  // namespace

TEST_CASE("gpu kernels: fill, copy and cast in every dtype", "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    const std::vector<DType> all = {DType::f32, DType::f64, DType::bf16, DType::i8,
                                    DType::u8,  DType::i32, DType::i64};
    for (const DType dtype : all) {
        for (const int64_t n : {1, 31, 49, 197, 40000}) {
            INFO(engine::name_of(dtype) << " " << n);
            const double low = dtype == DType::u8 ? 0 : -100;
            std::vector<double> values(static_cast<size_t>(n));
            for (size_t i = 0; i < values.size(); ++i) values[i] = low + static_cast<double>(i * 7 % 201);
            const Tensor x = gpu_vector(values, dtype);
            // n elements in the middle of others, the first not aligned
            const Tensor whole = Tensor::full({n + 2}, 5, dtype, kGpu), part = whole.slice(1, n + 1);
            std::vector<double> expected(values.size() + 2, 5.0);
            on_gpu().fill(-low + 3, part);
            std::fill(expected.begin() + 1, expected.end() - 1, -low + 3);
            CHECK(whole.to_vector() == expected);
            on_gpu().copy(x, part);
            std::copy(values.begin(), values.end(), expected.begin() + 1);
            CHECK(whole.to_vector() == expected);
            if (engine::is_floating(dtype)) {
                on_gpu().copy(gpu_vector(exact_fill(dtype, "cast", n, 3.0), dtype), part);
                expected = whole.to_vector();
            }
            for (const DType to : {DType::f32, DType::f64, DType::bf16}) {
                const Tensor y({n + 2}, to, kGpu);
                on_gpu().cast(whole, y);
                CHECK(y.to_vector() == rounded_to(to, expected));
                on_gpu().cast(part, y.slice(0, n));
                CHECK(y.slice(0, n).to_vector() ==
                      rounded_to(to, {expected.begin() + 1, expected.end() - 1}));
            }
        }
    }
}

TEST_CASE("gpu kernels: columns of a matrix", "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    const Tensor s = gpu_vector({0.37}, DType::f32), t = gpu_vector({-1.9}, DType::f32);
    for_activations([&](DType dtype) {
        for (const int64_t cols : {1, 31, 49, 64, 192}) {
            const Tensor z = gpu_tensor("z", {3, 7, 3 * cols}, dtype, 2.0);
            const Tensor x = gpu_tensor("x", {3, 7, cols}, dtype, 2.0);
            const Tensor bias = gpu_tensor("bias", {cols}, DType::f32, 1.0);
            for (int64_t place = 0; place < 3; ++place) {
                INFO(cols << " columns, " << place);
                for (const int which : {0, 1, 3, 7}) {
                    const Tensor factor = (which & 1) != 0 ? s : Tensor();
                    const Tensor other = (which & 2) != 0 ? t : Tensor();
                    const Tensor summand = (which & 4) != 0 ? bias : Tensor();
                    const auto of = [](const Tensor& x_) { return x_.defined() ? as_f64(x_) : Tensor(); };
                    const Tensor y = x.like(), expected(x.shape(), DType::f64);
                    on_gpu().take_columns(z, place * cols, factor, other, summand, y);
                    on_cpu().take_columns(as_f64(z), place * cols, of(factor), of(other), of(summand),
                                          expected);
                    CHECK(l2_error(y.to_vector(), expected.to_vector()) <= single_tolerance(dtype));
                    const Tensor filled = z.clone(), expected_z = as_f64(z);
                    on_gpu().put_columns(x, factor, place * cols, filled);
                    on_cpu().put_columns(as_f64(x), of(factor), place * cols, expected_z);
                    CHECK(l2_error(filled.to_vector(), expected_z.to_vector()) <= single_tolerance(dtype));
                }
            }
        }
    });
}

TEST_CASE("gpu kernels: accumulate_outer and accumulate_add add to what is there", "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    for (const Shape& shape : {Shape{1, 1}, Shape{31, 49}, Shape{197, 192}}) {
        INFO(shape.str());
        const Tensor y = gpu_tensor("y", shape, DType::f32, 1.0), expected = as_f64(y);
        const Tensor u = gpu_tensor("u", {shape[0]}, DType::f32, 1.0), s = gpu_vector({-0.3}, DType::f32);
        on_gpu().accumulate_outer(u, s, y);
        on_cpu().accumulate_outer(as_f64(u), as_f64(s), expected);
        CHECK(l2_error(y.to_vector(), expected.to_vector()) <= 1e-6);
    }
    for_activations([](DType dtype) {
        const Tensor x = gpu_tensor("x", {31, 197}, dtype, 1.0), y = gpu_tensor("y", {31, 197}, dtype, 2.0);
        const Tensor expected = as_f64(y);
        on_cpu().accumulate_add(as_f64(x), expected);
        on_gpu().accumulate_add(x, y);
        CHECK(l2_error(y.to_vector(), expected.to_vector()) <= single_tolerance(dtype));
    });
}

TEST_CASE("gpu kernels: layer_norm_apply computes the norm again", "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    for_activations([](DType dtype) {
        for (const Shape& shape : {Shape{1, 5}, Shape{31, 49}, Shape{7, 31, 192}, Shape{49, 197}}) {
            INFO(shape.str());
            const Tensor x = gpu_tensor("x", shape, dtype, 1.0, 0.4), y = x.like(), again = x.like();
            const Tensor gamma = gpu_tensor("gamma", {shape.cols()}, DType::f32, 0.3, 1.0);
            const Tensor beta = gpu_tensor("beta", {shape.cols()}, DType::f32, 1.0);
            const Tensor mean({shape.rows()}, DType::f32, kGpu), rstd = mean.like();
            on_gpu().layer_norm(x, gamma, beta, 1e-6, y, mean, rstd);
            on_gpu().layer_norm_apply(x, mean, rstd, gamma, beta, again);
            CHECK(again.to_vector() == y.to_vector());
            const Tensor expected(shape, DType::f64);
            on_cpu().layer_norm_apply(as_f64(x), as_f64(mean), as_f64(rstd), as_f64(gamma), as_f64(beta),
                                      expected);
            CHECK(l2_error(again.to_vector(), expected.to_vector()) <= single_tolerance(dtype));
        }
    });
}

TEST_CASE("gpu kernels: targets and counts of the loss", "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    for (const int64_t classes : {1, 3, 10, 31, 1000}) {
        for (const int64_t rows : {1, 31, 197}) {
            INFO(classes << " classes, " << rows << " rows");
            std::vector<double> labels, z;
            for (const double u : uniform01("labels", rows)) {
                labels.push_back(std::floor(u * static_cast<double>(classes)));
            }
            for (const double u : uniform01("z", rows * classes)) z.push_back(std::floor(u * 20));  // ties
            z[z.size() / 2] = kNaN;
            const Tensor host_labels = Tensor::from(labels, {rows}, DType::i32);
            const Tensor host_z = Tensor::from(z, {rows, classes}, DType::f32), host_p = host_z.like();
            const Tensor p({rows, classes}, DType::f32, kGpu), counts({2}, DType::i64, kGpu);
            const Tensor host_counts({2}, DType::i64);
            on_gpu().smooth_targets(host_labels.to(kGpu), 0.1, p);
            on_cpu().smooth_targets(host_labels, 0.1, host_p);
            CHECK(largest_difference(p.to_vector(), host_p.to_vector()) <= 1e-7);
            on_gpu().count_top(host_z.to(kGpu), host_labels.to(kGpu), counts);
            on_cpu().count_top(host_z, host_labels, host_counts);
            CHECK(counts.to_vector() == host_counts.to_vector());
        }
    }
}

TEST_CASE("gpu kernels: pixels", "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    const std::array<double, 3> mean = {0.485, 0.456, 0.406}, deviation = {0.229, 0.224, 0.225};
    for_activations([&](DType dtype) {
        for (const int64_t side : {1, 7, 28, 32}) {
            INFO(side << " pixels");
            const Shape shape{5, 3, side, side};
            std::vector<double> pixels;
            for (const double u : uniform01("pixels", shape.numel())) pixels.push_back(std::floor(256 * u));
            const Tensor x = Tensor::from(pixels, shape, DType::u8);
            const Tensor y(shape, dtype, kGpu), expected(shape, DType::f64);
            on_gpu().normalize_pixels(x.to(kGpu), mean, deviation, y);
            on_cpu().normalize_pixels(x, mean, deviation, expected);
            CHECK(l2_error(y.to_vector(), expected.to_vector()) <= single_tolerance(dtype));
        }
    });
}

TEST_CASE("gpu kernels: scale and bias of products of codes", "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    for_activations([](DType dtype) {
        for (const Shape& shape : {Shape{1, 1}, Shape{31, 49}, Shape{192, 768}}) {
            INFO(shape.str());
            std::vector<double> codes;
            for (const double u : uniform01("codes", shape.numel())) codes.push_back(std::floor(16 * u) - 8);
            const Tensor w = Tensor::from(codes, shape, dtype, kGpu), one({1}, DType::f32, kGpu);
            const Tensor a_w = gpu_vector({0.021}, DType::f32),
                         bias = gpu_tensor("bias", {shape[0]}, DType::f32, 1.0);
            const Tensor a_x = gpu_vector({0.13}, DType::f32), offset = gpu_vector({-0.17}, DType::f32);
            const Tensor shifted({shape[0]}, dtype, kGpu), scale({1}, DType::f64),
                expected({shape[0]}, DType::f64);
            on_gpu().linear_scale(a_x, offset, w, a_w, bias, one, shifted);
            on_cpu().linear_scale(as_f64(a_x), as_f64(offset), as_f64(w), as_f64(a_w), as_f64(bias), scale,
                                  expected);
            CHECK(l2_error(one.to_vector(), scale.to_vector()) <= 1e-6);
            CHECK(l2_error(shifted.to_vector(), expected.to_vector()) <= single_tolerance(dtype));
            on_gpu().linear_scale({}, {}, w, {}, {}, one, shifted);
            CHECK(one.item() == 1);
            CHECK(shifted.to_vector() == std::vector<double>(static_cast<size_t>(shape[0]), 0.0));
        }
    });
}

TEST_CASE("gpu kernels: parts divided by their scales", "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    for (const int64_t cols : {1, 31, 192}) {
        const Tensor x = gpu_tensor("x", {3 * cols, cols}, DType::f32, 1.0), y = x.like();
        const std::vector<Tensor> scales = {
            gpu_vector({0.021}, DType::f32), {}, gpu_vector({1.7}, DType::f32)};
        const Tensor exact = as_f64(x);
        on_gpu().divide_parts(x, scales, y);
        on_cpu().divide_parts(exact, {as_f64(scales[0]), {}, as_f64(scales[2])}, exact);
        CHECK(l2_error(y.to_vector(), exact.to_vector()) <= 2e-7);
    }
}

TEST_CASE("gpu kernels: column sums of many rows", "[gpu]") {
    if (gpu_missing()) return;
    Worst worst;
    for_activations([&](DType dtype) {
        for (const Shape& shape : {Shape{1, 1}, Shape{31, 1}, Shape{1, 197}, Shape{197, 31}, Shape{1576, 49},
                                   Shape{3, 100003}, Shape{100864, 192}}) {
            INFO(shape.str());
            // offsets, so that rounding errors of a sum in one order would add up
            const std::vector<double> values = exact_fill(dtype, "rows", shape.numel(), 1.0, 0.5);
            std::vector<double> expected(static_cast<size_t>(shape[1]), 0.0);
            for (size_t i = 0; i < values.size(); ++i) expected[i % expected.size()] += values[i];
            const Tensor y({shape[1]}, DType::f32, kGpu);
            on_gpu().sum_rows(Tensor::from(values, shape, dtype, kGpu), y);
            const double error = l2_error(y.to_vector(), expected);
            worst.note(error, shape.str());
            CHECK(error <= 1e-6);  // measured on an H200: 4.6e-8
        }
    });
    WARN("column sums: " << worst.str());
}

TEST_CASE("gpu kernels: sums of all elements, and values that are not finite", "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
        for (const int64_t n : {1, 31, 197, 40000, 1000003}) {
            INFO(engine::name_of(dtype) << " " << n);
            std::vector<double> x = exact_fill(dtype, "finite", n, 1.0, 0.2);
            const Tensor count({1}, DType::i64, kGpu), total({1}, DType::f64, kGpu);
            if (dtype != DType::f64) {
                double magnitudes = 0, squares = 0;
                for (const double value : x) {
                    magnitudes += std::abs(value);
                    squares += value * value;
                }
                on_gpu().sum_abs(gpu_vector(x, dtype), total);
                CHECK(std::abs(total.item() / magnitudes - 1) <= 1e-6);
                on_gpu().sum_squares(gpu_vector(x, dtype), total);
                CHECK(std::abs(total.item() / squares - 1) <= 1e-6);
            }
            on_gpu().count_not_finite(gpu_vector(x, dtype), count);
            CHECK(count.item() == 0);
            x.front() = kNaN;
            x[x.size() / 2] = -kInfinity;
            x.back() = kInfinity;
            on_gpu().count_not_finite(gpu_vector(x, dtype), count);
            CHECK(count.item() == (n == 1 ? 1 : 3));
        }
    }
}
