// bench_support: what measurements share: times by the device's clock, medians, ceilings, and data to measure
// on.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "engine/device.h"
#include "engine/tensor.h"

namespace vvtq::apps {

/// The value below which a share q of the values lies.
double quantile(std::vector<double> values, double q);

/// Milliseconds of the work that `f` enqueues, by the device's clock.
double timed(engine::Runtime& runtime, const std::function<void()>& f);

/// The most MiB of memory that a process takes which does `work` and nothing else; none where it fails. To be
/// called before this process has started threads.
std::optional<double> peak_mib(const std::function<void()>& work);

/// Bytes read and written per second by a large copy on the device.
double copy_bandwidth(engine::Device device);

/// Normal numbers of the given deviation, a block of them over and over: products of equal numbers run faster
/// than real ones.
engine::Tensor noise(const engine::Shape& shape, engine::DType dtype, engine::Device device,
                     double deviation = 0.02);

}  // namespace vvtq::apps
