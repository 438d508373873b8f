#include "quant/oscillation.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numbers>
#include <optional>

#include "quant/attach.h"
#include "quant/inspect/figures.h"
#include "quant/lsq.h"

namespace vvtq::quant {

using engine::CodeMark;
using engine::DType;
using engine::kernels;
using nn::Tensor;

namespace {

constexpr auto kFrozen = static_cast<double>(CodeMark::frozen);

/// How the codes of a weight follow from it; undefined parameters stand for one bit. Nothing where the
/// quantizer has no codes, or no step yet.
std::optional<engine::QuantParams> code_params(const nn::QuantizerSlot& slot) {
    nn::Quantizer& quantizer = *slot.get();
    const engine::Shape& shape = slot.weight().shape();
    if (!quantizer.ready()) return std::nullopt;
    if (const auto* lsq = as_lsq(&quantizer)) return lsq->values_for(shape);
    if (quantizer.describe().kind == "binary") return engine::QuantParams();
    const auto params = quantizer.params(shape.numel());
    if (!params || params->offset.defined()) return std::nullopt;
    return params->values();
}

/// A u8 tensor of one value.
Tensor bytes_of(const engine::Shape& shape, CodeMark value, engine::Device device) {
    const Tensor host(shape, DType::u8);
    std::memset(host.raw(), static_cast<int>(value), host.bytes());
    return host.to(device);
}

}  // namespace

WeightBins weight_bins(const nn::QuantizerSlot& slot) {
    const auto params = code_params(slot);
    if (!params) return {};
    const Inspection inspection = inspect(*slot.get(), slot.weight().value());
    WeightBins bins{{}, {}, variance_in_bins(inspection)};
    if (params->defined()) bins.steps = params->scale.to_vector();
    for (const int64_t count : inspection.occupancy) {
        bins.occupancy.push_back(static_cast<double>(count) / static_cast<double>(inspection.codes.size()));
    }
    return bins;
}

OscillationTracker::OscillationTracker(nn::Model& model, bool freezes) : freezes_(freezes) {
    std::map<const void*, std::string> names;
    for (const nn::NamedParameter& p : model.parameters()) names.emplace(p.parameter.value().raw(), p.name);
    engine::Device device = engine::Device::cpu;
    for (const auto& [path, slot] : slots(model)) {
        if (slot->get() == nullptr || slot->values() != nn::Values::weight || slot->idle()) continue;
        const Tensor& w = slot->weight().value();
        device = w.device();
        Weight weight{path, names.at(w.raw()), slot, {}, {}, {}, {}};
        weight.code = bytes_of(w.shape(), CodeMark::none, device);
        weight.mark = bytes_of(w.shape(), CodeMark::unseen, device);
        weight.frequency = Tensor::zeros(w.shape(), DType::f32, device);
        if (freezes) weight.mean = weight.frequency.clone();
        weights_.push_back(std::move(weight));
    }
    if (!freezes) return;
    threshold_ = Tensor::full({1}, 1.0, DType::f32, device);
    to_threshold_ = engine::upload_to(threshold_);
}

void OscillationTracker::begin() {
    if (begun_) return;
    begun_ = true;
    for (const Weight& weight : weights_) {
        const auto params = code_params(*weight.slot);
        if (!params || (freezes_ && !params->defined())) continue;
        items_.push_back({weight.slot->weight().value(), *params, weight.code, weight.mark, weight.frequency,
                          weight.mean});
    }
    if (items_.empty()) return;
    // Those that no file told of get the code that they have before their first update.
    std::vector<engine::CodeTrackItem> unseen;
    for (const engine::CodeTrackItem& item : items_) {
        const std::vector<double> marks = item.mark.to_vector();
        const auto is_unseen = [](double mark) { return mark == static_cast<double>(CodeMark::unseen); };
        if (std::all_of(marks.begin(), marks.end(), is_unseen)) unseen.push_back(item);
    }
    const Tensor none_found = Tensor::from({0}, {1}, DType::i32, items_[0].w.device());
    if (!unseen.empty()) {
        kernels(none_found.device()).track_codes(unseen, kOscillationMomentum, threshold_, none_found);
    }
}

void OscillationTracker::clear_frozen() const {
    if (!freezes_) return;
    std::vector<engine::FrozenItem> frozen;
    for (const Weight& weight : weights_) {
        const Tensor& gradient = weight.slot->weight().grad();
        if (gradient.defined()) frozen.push_back({gradient, weight.mark});
    }
    if (!frozen.empty()) kernels(threshold_.device()).clear_frozen(frozen);
}

void OscillationTracker::follow(const Tensor& found_inf) const {
    if (items_.empty()) return;
    kernels(found_inf.device()).track_codes(items_, kOscillationMomentum, threshold_, found_inf);
}

void OscillationTracker::set_threshold(double threshold) {
    VVTQ_CHECK(freezes_ && threshold > 0, "threshold ", threshold);
    const auto value = static_cast<float>(threshold);
    std::memcpy(to_threshold_->host(), &value, sizeof value);
    to_threshold_->send();
}

std::vector<std::pair<std::string, Tensor>> OscillationTracker::state() const {
    std::vector<std::pair<std::string, Tensor>> state;
    for (const Weight& weight : weights_) {
        state.emplace_back(weight.name + ".osc_code", weight.code);
        state.emplace_back(weight.name + ".osc_mark", weight.mark);
        state.emplace_back(weight.name + ".osc_frequency", weight.frequency);
        if (freezes_) state.emplace_back(weight.name + ".osc_mean", weight.mean);
    }
    return state;
}

void OscillationTracker::state_loaded() {
    for (const Weight& weight : weights_) {
        const engine::CodeRange range = weight.slot->get()->describe().range;
        const auto require = [&](const Tensor& tensor, const char* what, double low, double high) {
            for (const double value : tensor.to_vector()) {
                if (value >= low && value <= high) continue;
                engine::input_error(weight.name, what, " has the value ", value, ", which is not within ",
                                    low, " .. ", high, "; name another file");
            }
        };
        require(weight.code, ".osc_code", 0, range.count() - 1);
        require(weight.mark, ".osc_mark", 0, static_cast<double>(CodeMark::unseen));
        require(weight.frequency, ".osc_frequency", 0, 1);
        if (freezes_) require(weight.mean, ".osc_mean", range.low, range.high);
    }
}

std::vector<std::pair<std::string, Oscillation>> OscillationTracker::layers() const {
    std::vector<std::pair<std::string, Oscillation>> layers;
    for (const Weight& weight : weights_) {
        Oscillation layer;
        const std::vector<double> frequency = weight.frequency.to_vector();
        for (const double f : frequency) {
            layer.share += f > kOscillating ? 1 : 0;
            layer.mean += f;
        }
        if (freezes_) {
            const std::vector<double> marks = weight.mark.to_vector();
            layer.frozen = static_cast<double>(std::count(marks.begin(), marks.end(), kFrozen));
        }
        for (double* sum : {&layer.share, &layer.mean, &layer.frozen}) {
            *sum /= static_cast<double>(frequency.size());
        }
        layers.emplace_back(weight.path, layer);
    }
    return layers;
}

Oscillation OscillationTracker::total(const std::vector<std::pair<std::string, Oscillation>>& layers) const {
    Oscillation all;
    double count = 0;
    for (size_t i = 0; i < weights_.size(); ++i) {
        const auto numel = static_cast<double>(weights_[i].code.numel());
        const Oscillation& layer = layers[i].second;
        all.share += layer.share * numel;
        all.mean += layer.mean * numel;
        all.frozen += layer.frozen * numel;
        count += numel;
    }
    if (count > 0) return {all.share / count, all.mean / count, all.frozen / count};
    return all;
}

double freeze_threshold(double first, double last, double epoch, double epochs) {
    VVTQ_CHECK(epochs > 0 && epoch >= 0, "epoch ", epoch, " of ", epochs);
    return last + 0.5 * (first - last) * (1.0 + std::cos(std::numbers::pi * epoch / epochs));
}

}  // namespace vvtq::quant
