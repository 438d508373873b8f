#include "quant/inspect/inspect.h"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <limits>
#include <sstream>

#include "quant/lsq.h"

namespace vvtq::quant {

using engine::DType;
using engine::kernels;
using engine::Shape;
using engine::Tensor;

namespace {

double decibels(double signal, double noise) {
    if (noise == 0) return std::numeric_limits<double>::infinity();
    return 10.0 * std::log10(signal / noise);
}

/// Where x lies within the range, in the arithmetic of the kernel itself: with dy = 1 its dx is `in`.
std::vector<double> inside_of(const Tensor& x, engine::QuantParams quantizer) {
    const Tensor ones = Tensor::full(x.shape(), 1.0, x.dtype(), x.device());
    quantizer.grad_scale = Tensor::full(Shape{1}, 1.0, quantizer.scale.dtype(), x.device());
    const Tensor in = x.like();
    const Tensor doffset = quantizer.offset.defined() ? quantizer.offset.like() : Tensor();
    kernels(x.device()).lsq_backward(ones, x, quantizer, in, quantizer.scale.like(), doffset);
    return in.to_vector();
}

/// Fills in what follows from the elements' codes: occupancy, signal and noise against the outputs y, and
/// clipping, where `clipped(i)` is -1, 0 or 1.
template <typename Clipped>
void sum_up(Inspection& found, const std::vector<double>& y, const Clipped& clipped) {
    const engine::CodeRange range = found.range;
    found.occupancy.assign(static_cast<size_t>(range.count()), 0);
    int64_t below = 0, above = 0;
    for (size_t i = 0; i < y.size(); ++i) {
        const int q = found.codes[i];
        VVTQ_CHECK(q >= range.low && q <= range.high, "code ", q, " outside ", range.low, "..", range.high);
        ++found.occupancy[static_cast<size_t>(q - range.low)];
        const double x = found.values[i], error = x - y[i];
        found.signal += x * x;
        found.noise += error * error;
        const int side = clipped(i);
        below += side < 0 ? 1 : 0;
        above += side > 0 ? 1 : 0;
    }
    const auto count = static_cast<double>(y.size());
    found.clipped_below = static_cast<double>(below) / count;
    found.clipped_above = static_cast<double>(above) / count;
    found.clipped_share = static_cast<double>(below + above) / count;
    found.signal_to_noise_db = decibels(found.signal, found.noise);
}

/// Of 1 bit, y the signs times sizes that depend on x.
Inspection inspect_signs(const Tensor& x, const std::vector<double>& y, engine::CodeRange range) {
    Inspection found;
    found.range = range;
    found.values = x.to_vector();
    for (size_t i = 0; i < y.size(); ++i) {
        found.positions.push_back(y[i] == 0 ? 0.0 : found.values[i] / std::fabs(y[i]));
        found.codes.push_back((y[i] > 0 ? 1 : 0) - (y[i] < 0 ? 1 : 0));
    }
    sum_up(found, y,
           [&](size_t i) { return (found.values[i] > 1 ? 1 : 0) - (found.values[i] < -1 ? 1 : 0); });
    return found;
}

/// Of steps, y the outputs.
Inspection inspect_steps(const Tensor& x, const engine::QuantParams& quantizer,
                         const std::vector<double>& y) {
    const Tensor codes(x.shape(), DType::i32, x.device());
    kernels(x.device()).lsq_codes(x, quantizer, codes);
    const std::vector<double> range = quantizer.range.to_vector(), steps = quantizer.scale.to_vector(),
                              offsets = quantizer.offset.defined() ? quantizer.offset.to_vector()
                                                                   : std::vector<double>{},
                              q = codes.to_vector(), inside = inside_of(x, quantizer);
    Inspection found;
    found.range = {static_cast<int>(range[0]), static_cast<int>(range[1])};
    found.values = x.to_vector();
    found.codes.assign(q.begin(), q.end());
    found.positions.resize(found.values.size());
    const auto inner = static_cast<size_t>(quantizer.inner);
    for (size_t i = 0; i < found.values.size(); ++i) {
        const size_t group = steps.size() == 1 ? 0 : i / inner % steps.size();
        const double offset = offsets.empty() ? 0.0 : offsets[group];
        found.positions[i] = (found.values[i] - offset) / steps[group];
    }
    sum_up(found, y, [&](size_t i) {
        if (inside[i] != 0) return 0;
        return found.positions[i] < found.range.low ? -1 : 1;
    });
    return found;
}

}  // namespace

void Inspection::append(const Inspection& more) {
    if (values.empty()) {
        *this = more;
        return;
    }
    VVTQ_CHECK(occupancy.size() == more.occupancy.size() && range.low == more.range.low, "of two quantizers");
    const auto before = static_cast<double>(values.size()), added = static_cast<double>(more.values.size());
    const auto mean = [&](double& share, double other) {
        share = (share * before + other * added) / (before + added);
    };
    mean(clipped_share, more.clipped_share);
    mean(clipped_below, more.clipped_below);
    mean(clipped_above, more.clipped_above);
    values.insert(values.end(), more.values.begin(), more.values.end());
    positions.insert(positions.end(), more.positions.begin(), more.positions.end());
    codes.insert(codes.end(), more.codes.begin(), more.codes.end());
    for (size_t k = 0; k < occupancy.size(); ++k) occupancy[k] += more.occupancy[k];
    signal += more.signal;
    noise += more.noise;
    signal_to_noise_db = decibels(signal, noise);
}

Inspection inspect(const Tensor& x, const engine::QuantParams& quantizer) {
    VVTQ_CHECK(x.numel() > 0, "nothing to inspect");
    const Tensor y = x.like();
    kernels(x.device()).lsq(x, quantizer, y);
    return inspect_steps(x, quantizer, y.to_vector());
}

Inspection inspect(nn::Quantizer& quantizer, const Tensor& x) {
    if (const auto* lsq = as_lsq(&quantizer)) return lsq->inspect(x);
    VVTQ_CHECK(x.numel() > 0, "nothing to inspect");
    const nn::QuantizerDescription description = quantizer.describe();
    const autograd::NoGrad off_tape;
    const std::vector<double> y = quantizer(nn::Variable(x)).value().to_vector();
    if (description.bits == 1 && description.scale.empty()) return inspect_signs(x, y, description.range);
    VVTQ_CHECK(description.scale.size() == 1, "a quantizer with ", description.scale.size(), " steps");
    const auto one = [&](const std::vector<double>& values) {
        return values.empty() ? Tensor()
                              : Tensor::from(values, {1}, engine::master_of(x.dtype()), x.device());
    };
    return inspect_steps(x,
                         {one(description.scale),
                          one(description.offset),
                          engine::range_tensor(description.range, x.device()),
                          {}},
                         y);
}

std::optional<double> only_value(nn::Quantizer& quantizer, const Tensor& x) {
    const autograd::NoGrad off_tape;
    const std::vector<double> y = quantizer(nn::Variable(x)).value().to_vector();
    VVTQ_CHECK(!y.empty(), "nothing to look at");
    const nn::QuantizerDescription description = quantizer.describe();
    const auto all_equal = [](const auto& values) {
        return std::all_of(values.begin(), values.end(), [&](auto v) { return v == values[0]; });
    };
    bool one = false;
    if (description.bits == 1) {
        one = std::all_of(y.begin(), y.end(), [&](double v) { return (v > 0) == (y[0] > 0); });
    } else if (const auto* lsq = as_lsq(&quantizer); lsq && lsq->alpha().shape()[0] > 1) {
        one = all_equal(lsq->inspect(x).codes);  // steps differ from head to head
    } else {
        one = all_equal(y);
    }
    return one ? std::optional(y[0]) : std::nullopt;
}

std::string occupancy_chart(const Inspection& inspection, engine::CodeRange range, int width) {
    const std::vector<int64_t>& counts = inspection.occupancy;
    VVTQ_CHECK(static_cast<int>(counts.size()) == range.count() && width > 0, counts.size(), " counts");
    const int64_t most = std::max<int64_t>(1, *std::max_element(counts.begin(), counts.end()));
    std::ostringstream out;
    for (size_t k = 0; k < counts.size(); ++k) {
        const auto marks = static_cast<size_t>((counts[k] * width + most - 1) / most);
        out << std::setw(4) << range.low + static_cast<int>(k) << std::setw(10) << counts[k]
            << (marks > 0 ? "  " : "") << std::string(marks, '#') << '\n';
    }
    return out.str();
}

}  // namespace vvtq::quant
