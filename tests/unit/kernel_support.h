// kernel_support: what the tests of single kernels share.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "engine/kernels.h"
#include "tests/catch.h"
#include "tests/golden_inputs.h"
#include "tests/quant_params.h"

namespace vvtq::tests {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

inline const engine::Kernels& cpu() { return engine::kernels(engine::Device::cpu); }

inline engine::Tensor vector_of(const std::vector<double>& values, engine::DType dtype) {
    return engine::Tensor::from(values, {static_cast<int64_t>(values.size())}, dtype);
}

/// Numbers that f32 holds exactly.
inline std::vector<double> exact(const std::string& name, int64_t n, double scale, double offset = 0.0) {
    return vector_of(fill(name, n, scale, offset), engine::DType::f32).to_vector();
}
inline engine::Tensor exact(const std::string& name, const engine::Shape& shape, engine::DType dtype,
                            double scale = 1.0, double offset = 0.0) {
    return engine::Tensor::from(exact(name, shape.numel(), scale, offset), shape, dtype);
}

template <typename F>
void for_sizes_and_dtypes(F&& check) {
    for (const int64_t n : {1, 31, 49, 197, 40000}) {
        for (const engine::DType dtype : {engine::DType::f32, engine::DType::f64}) {
            INFO(n << " " << engine::name_of(dtype));
            check(n, dtype, dtype == engine::DType::f32 ? 1e-6 : 1e-14);
        }
    }
}

/// check(dtype, tolerance of values near 1)
template <typename F>
void for_dtypes(F&& check) {
    for (const engine::DType dtype : {engine::DType::f32, engine::DType::f64}) {
        INFO(engine::name_of(dtype));
        check(dtype, dtype == engine::DType::f32 ? 1e-6 : 1e-14);
    }
}

}  // namespace vvtq::tests
