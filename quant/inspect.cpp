#include "quant/inspect.h"

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

/// The share of x with v outside the range, in the arithmetic of the kernel itself: with dy = 1 its dx is
/// `in`.
double clipped_share_of(const Tensor& x, engine::QuantParams quantizer) {
    const Tensor ones = Tensor::full(x.shape(), 1.0, x.dtype(), x.device());
    quantizer.grad_scale = Tensor::full(Shape{1}, 1.0, quantizer.scale.dtype(), x.device());
    const Tensor in = x.like();
    const Tensor doffset = quantizer.offset.defined() ? quantizer.offset.like() : Tensor();
    kernels(x.device()).lsq_backward(ones, x, quantizer, in, quantizer.scale.like(), doffset);
    const std::vector<double> inside = in.to_vector();
    const auto clipped = std::count(inside.begin(), inside.end(), 0.0);
    return static_cast<double>(clipped) / static_cast<double>(inside.size());
}

double signal_to_noise(const std::vector<double>& x, const std::vector<double>& y) {
    double signal = 0, noise = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        signal += x[i] * x[i];
        noise += (x[i] - y[i]) * (x[i] - y[i]);
    }
    if (noise == 0) return std::numeric_limits<double>::infinity();
    return 10.0 * std::log10(signal / noise);
}

}  // namespace

Inspection inspect(const Tensor& x, const engine::QuantParams& quantizer) {
    VVTQ_CHECK(x.numel() > 0, "nothing to inspect");
    const Tensor codes(x.shape(), DType::i32, x.device());
    const Tensor y = x.like();
    kernels(x.device()).lsq_codes(x, quantizer, codes);
    kernels(x.device()).lsq(x, quantizer, y);

    const std::vector<double> range = quantizer.range.to_vector();
    const int low = static_cast<int>(range[0]), high = static_cast<int>(range[1]);
    Inspection found;
    found.occupancy.assign(static_cast<size_t>(high - low + 1), 0);
    for (const double code : codes.to_vector()) {
        const int q = static_cast<int>(code);
        VVTQ_CHECK(q >= low && q <= high, "code ", q, " outside ", low, "..", high);
        found.codes.push_back(q);
        ++found.occupancy[static_cast<size_t>(q - low)];
    }
    found.clipped_share = clipped_share_of(x, quantizer);
    found.signal_to_noise_db = signal_to_noise(x.to_vector(), y.to_vector());
    return found;
}

Inspection inspect(nn::Quantizer& quantizer, const Tensor& x) {
    const nn::QuantizerDescription description = quantizer.describe();
    VVTQ_CHECK(description.scale.size() == 1, "a quantizer with ", description.scale.size(), " steps");
    const auto one = [&](const std::vector<double>& values) {
        return values.empty() ? Tensor()
                              : Tensor::from(values, {1}, engine::master_of(x.dtype()), x.device());
    };
    Inspection found = inspect(x, {one(description.scale),
                                   one(description.offset),
                                   engine::range_tensor(description.range, x.device()),
                                   {}});
    const autograd::NoGrad off_tape;
    found.signal_to_noise_db = signal_to_noise(x.to_vector(), quantizer(nn::Variable(x)).value().to_vector());
    return found;
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
    } else if (const auto* lsq = dynamic_cast<const Lsq*>(&quantizer); lsq && lsq->alpha().shape()[0] > 1) {
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
