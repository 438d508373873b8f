#include "tests/gpu_support.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <limits>

#include "engine/device.h"
#include "tests/golden_inputs.h"

namespace vvtq::tests {

using engine::DType;
using engine::Tensor;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

bool gpu_missing() {
    if (engine::is_available(kGpu)) return false;
    std::string why;
    try {
        engine::runtime(kGpu);
    } catch (const engine::Error& error) {
        why = error.what();
    }
    std::cout << "skipped, no CUDA device: " << why << std::endl;
    return true;
}

double l2_norm(const std::vector<double>& values) {
    double squares = 0;
    for (const double value : values) squares += value * value;
    return std::sqrt(squares);
}

double l2_error(const std::vector<double>& a, const std::vector<double>& reference) {
    if (a.size() != reference.size()) return kInfinity;
    std::vector<double> difference(a.size());
    for (size_t i = 0; i < a.size(); ++i) difference[i] = a[i] - reference[i];
    const double distance = l2_norm(difference);
    return distance == 0 ? 0.0 : distance / l2_norm(reference);
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
    if (a.size() != b.size()) return kInfinity;
    double largest = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        const double difference = std::abs(a[i] - b[i]);
        if (!(difference <= largest)) largest = std::isnan(difference) ? kInfinity : difference;
    }
    return largest;
}

bool all_finite(const std::vector<double>& values) {
    return std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); });
}

std::vector<double> scaled(std::vector<double> values, double factor) {
    for (double& value : values) value *= factor;
    return values;
}

std::vector<double> rounded_to(DType dtype, const std::vector<double>& values) {
    return Tensor::from(values, {static_cast<int64_t>(values.size())}, dtype).to_vector();
}

std::vector<double> exact_fill(DType dtype, const std::string& name, int64_t n, double scale, double offset) {
    return rounded_to(dtype, rounded_to(DType::f32, fill(name, n, scale, offset)));
}

Tensor gpu_vector(const std::vector<double>& values, DType dtype) {
    return Tensor::from(values, {static_cast<int64_t>(values.size())}, dtype, kGpu);
}

Tensor as_f64(const Tensor& x) { return Tensor::from(x.to_vector(), x.shape(), DType::f64); }

Tensor as(DType dtype, const Tensor& x) { return Tensor::from(x.to_vector(), x.shape(), dtype, kGpu); }

void Worst::note(double error, const std::string& where) {
    if (error <= error_ || std::isnan(error_)) return;
    error_ = error;
    where_ = where;
}

std::string Worst::str() const { return engine::concat("worst ", error_, " at ", where_); }

}  // namespace vvtq::tests
