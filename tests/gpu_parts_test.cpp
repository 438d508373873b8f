// Kernels that several processes need, on the GPU against the CPU.
#include <cmath>

#include "tests/catch.h"
#include "tests/gpu_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::concat;
using engine::DType;
using engine::PackItem;
using engine::Tensor;

TEST_CASE("gpu kernels: pack gives the CPU's bits, more parts than a launch takes", "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    const std::vector<int64_t> sizes = {1, 3, 31, 0, 192, 197, 4096, 4097, 1, 9001};
    for (const int count : {1, 10, 1160}) {
        std::vector<PackItem> host, device;
        int64_t end = 2;
        for (int k = 0; k < count; ++k) {
            const int64_t n = sizes[static_cast<size_t>(k) % sizes.size()];
            const auto values = exact_fill(DType::f32, concat("part", k), n, 1.0);
            host.push_back({Tensor::from(values, {n}, DType::f32), end});
            device.push_back({gpu_vector(values, DType::f32), end});
            end += n + (k % 4 == 0 ? 3 : 0);
            if (k % 3 == 0) end = (end + 3) / 4 * 4;
        }
        for (const DType dtype : {DType::f32, DType::bf16}) {
            for (const double scale : {1.0, 1.0 / 3}) {
                INFO(count << " parts, " << engine::name_of(dtype) << ", scale " << scale);
                const Tensor flat =
                    Tensor::from(std::vector<double>(static_cast<size_t>(end + 5), 7.0), {end + 5}, dtype);
                const Tensor on_device = flat.to(kGpu);
                on_cpu().pack(host, scale, flat);
                on_gpu().pack(device, scale, on_device);
                CHECK(on_device.to_vector() == flat.to_vector());
            }
        }
        CHECK_THROWS_AS(on_gpu().pack(device, 1.0, Tensor({1}, DType::f32, kGpu)), engine::Error);
    }
    const Tensor special = gpu_vector({-0.0, 1e-41, INFINITY, -1e-45}, DType::f32);
    const Tensor flat = Tensor::zeros({5}, DType::f32, kGpu);
    on_gpu().pack({{special, 0}}, 1.0, flat);
    CHECK(flat.slice(0, 4).to_vector() == special.to_vector());
    CHECK(std::signbit(flat.to_vector()[0]));
}

TEST_CASE("gpu kernels: sum_parts gives the CPU's bits", "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    for (const DType dtype : {DType::f32, DType::f64}) {
        for (const int64_t count : {1, 2, 4, 9}) {
            for (const int64_t n : {0, 1, 31, 40001}) {
                INFO(count << " parts of " << n << " " << engine::name_of(dtype));
                const Tensor parts =
                    Tensor::from(exact_fill(DType::f32, "parts", count * n, 1.0), {count, n}, dtype);
                const Tensor expected({n}, dtype), device = parts.to(kGpu).clone(), y({n}, dtype, kGpu);
                on_cpu().sum_parts(parts, 0.3, expected);
                on_gpu().sum_parts(device, 0.3, y);
                CHECK(y.to_vector() == expected.to_vector());
                on_gpu().sum_parts(device, 0.3, device.slice(count - 1, count));
                CHECK(device.slice(count - 1, count).to_vector() == expected.to_vector());
            }
        }
    }
}

TEST_CASE("gpu kernels: merged moments, and batch norm's gradient with sums from elsewhere",
          "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    for (const int64_t cols : {1, 31, 64, 1027}) {
        for (const int64_t count : {1, 2, 5}) {
            INFO(count << " parts of " << cols);
            const Tensor parts =
                gpu_vector(exact_fill(DType::f32, "moments", count * 2 * cols, 0.4, 1.0), DType::f32);
            const Tensor moments({2, cols}, DType::f32, kGpu), expected({2, cols}, DType::f64);
            on_gpu().merge_moments(parts, moments.slice(0, 1), moments.slice(1, 2));
            on_cpu().merge_moments(as_f64(parts), expected.slice(0, 1), expected.slice(1, 2));
            CHECK(l2_error(moments.to_vector(), expected.to_vector()) <= 1e-6);
        }
        const int64_t rows = 49;
        const auto vector = [&](const char* name, double scale, double offset) {
            return gpu_vector(exact_fill(DType::f32, name, cols, scale, offset), DType::f32);
        };
        const auto matrix = [&](const char* name) {
            return Tensor::from(exact_fill(DType::f32, name, rows * cols, 1.0), {rows, cols}, DType::f32,
                                kGpu);
        };
        const Tensor x = matrix("x"), dy = matrix("dy"), dx = x.like(), dx_expected({rows, cols}, DType::f64);
        // beta keeps all values clear of the kink
        const Tensor mean = vector("mean", 0.1, 0.0), variance = vector("variance", 0.1, 0.5),
                     gamma = vector("gamma", 0.1, 1.0), beta = vector("beta", 0.1, 4.0),
                     dgamma = vector("dgamma", 9.0, 1.0), dbeta = vector("dbeta", 9.0, 1.0);
        on_gpu().batch_norm_relu_backward(dy, x, mean, variance, gamma, beta, 1e-5, dgamma, dbeta, 0.01, dx);
        on_cpu().batch_norm_relu_backward(as_f64(dy), as_f64(x), as_f64(mean), as_f64(variance),
                                          as_f64(gamma), as_f64(beta), 1e-5, as_f64(dgamma), as_f64(dbeta),
                                          0.01, dx_expected);
        CHECK(l2_error(dx.to_vector(), dx_expected.to_vector()) <= 1e-6);
        const Tensor sums({2, cols}, DType::f32, kGpu), sums_expected({2, cols}, DType::f64);
        on_gpu().batch_norm_relu_sums(dy, x, mean, variance, gamma, beta, 1e-5, sums.slice(0, 1),
                                      sums.slice(1, 2));
        on_cpu().batch_norm_relu_sums(as_f64(dy), as_f64(x), as_f64(mean), as_f64(variance), as_f64(gamma),
                                      as_f64(beta), 1e-5, sums_expected.slice(0, 1),
                                      sums_expected.slice(1, 2));
        CHECK(l2_error(sums.to_vector(), sums_expected.to_vector()) <= 1e-6);
    }
}
