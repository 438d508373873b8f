// gpu_support: what the tests of the CUDA backend share. They are tagged [gpu], and small ones that
// scripts/test-gpu also runs under compute-sanitizer [gpu-ops].
#pragma once

#include "tests/quant_params.h"

#include <string>
#include <vector>

#include "engine/kernels.h"

namespace vvtq::tests {

constexpr engine::Device kGpu = engine::Device::cuda;

inline const engine::Kernels& on_gpu() { return engine::kernels(kGpu); }
inline const engine::Kernels& on_cpu() { return engine::kernels(engine::Device::cpu); }

/// Whether there is no GPU here. Says so in a line, after which a test case ends.
bool gpu_missing();

/// ||a - reference|| / ||reference||; 0 where they are equal, infinite where sizes differ, not finite where a
/// value is not.
double l2_error(const std::vector<double>& a, const std::vector<double>& reference);
double l2_norm(const std::vector<double>& values);
/// Largest |a_i - b_i|; infinite where sizes differ or a value is NaN.
double largest_difference(const std::vector<double>& a, const std::vector<double>& b);
bool all_finite(const std::vector<double>& values);
std::vector<double> scaled(std::vector<double> values, double factor);

/// To the nearest values of a floating dtype.
std::vector<double> rounded_to(engine::DType dtype, const std::vector<double>& values);
/// golden_inputs' fill, rounded to values of `dtype`.
std::vector<double> exact_fill(engine::DType dtype, const std::string& name, int64_t n, double scale,
                               double offset = 0.0);
/// A vector on the GPU.
engine::Tensor gpu_vector(const std::vector<double>& values, engine::DType dtype);
/// A copy on the CPU in f64.
engine::Tensor as_f64(const engine::Tensor& x);
/// A copy on the GPU in another dtype.
engine::Tensor as(engine::DType dtype, const engine::Tensor& x);

/// The largest of several errors, and where it was.
class Worst {
  public:
    void note(double error, const std::string& where);
    std::string str() const;

  private:
    double error_ = 0;
    std::string where_ = "nowhere";
};

}  // namespace vvtq::tests
