// `vvtq inspect`: what a checkpoint alone tells.
#include <cmath>
#include <set>

#include "apps/commands/inspection.h"
#include "apps/commands/model_setup.h"
#include "apps/training/value_text.h"
#include "engine/random.h"
#include "quant/attach.h"
#include "quant/export/bit_codes.h"
#include "quant/inspect/figures.h"
#include "quant/lsq.h"
#include "quant/oscillation.h"

namespace vvtq::apps {
namespace {

constexpr int kHistogramBins = 96;
constexpr size_t kSample = 512;

/// null where the number is not finite.
ordered_json number(double value) { return std::isfinite(value) ? ordered_json(value) : ordered_json(); }

double six_digits(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.6g", value);
    return std::strtod(text, nullptr);
}

const char* role_of(nn::Values values) {
    switch (values) {
        case nn::Values::weight:
            return "weight";
        case nn::Values::activation:
            return "activation";
        case nn::Values::probability:
            return "probability";
        case nn::Values::activated:
            return "activated";
    }
    return "";
}

/// A noise picture: what it costs does not depend on it.
nn::Tensor any_picture(const nn::ModelConfig& config, const Compute& compute) {
    engine::Random random(0);
    const engine::Shape shape{1, config.in_chans, config.img_size, config.img_size};
    std::vector<double> values(static_cast<size_t>(shape.numel()));
    for (double& value : values) value = random.normal();
    return nn::Tensor::from(values, shape, compute.dtype, compute.device);
}

/// g of the steps: of a weight, or of an activation of one picture with `count` values; none where it depends
/// on the values and there are none.
ordered_json grad_scale(const nn::QuantizerSlot& slot, const nn::QuantizerDescription& description,
                        int64_t count) {
    const auto* lsq = quant::as_lsq(slot.get());
    if (lsq == nullptr || description.scale.empty()) return ordered_json::array();
    if (description.weight) return {number(lsq->grad_scale(slot.weight().value()).item())};
    if (description.scale.size() > 1 || count == 0) return ordered_json::array();
    return {1.0 / (std::sqrt(static_cast<double>(count)) * description.range.high)};
}

/// The element that is the i-th of `count` in a sample of `total`: one of each part of the tensor, at another
/// place in each. Of equal distances, such as 72 in rows of 96, few columns would stand for all.
int64_t sampled(size_t i, size_t count, int64_t total) {
    const double place = static_cast<double>(i) * 0.6180339887498949;  // of the golden ratio
    const double part = static_cast<double>(i) + place - std::floor(place);
    return std::min(total - 1,
                    static_cast<int64_t>(part * static_cast<double>(total) / static_cast<double>(count)));
}

ordered_json entry_of(const std::string& path, nn::QuantizerSlot& slot, const quant::PictureCost& cost) {
    const nn::QuantizerDescription description = slot.get()->describe();
    const bool weight = slot.values() == nn::Values::weight;
    std::vector<int64_t> shape;
    int64_t count = 0;
    if (weight) {
        shape = slot.weight().shape().vec();
        count = slot.weight().shape().numel();
    } else if (const auto seen = cost.values.find(path); seen != cost.values.end()) {
        shape = seen->second.shape.vec();
        if (shape.size() > 1 && shape.front() == 1) shape.erase(shape.begin());
        count = seen->second.count;
    }
    ordered_json entry = {{"name", path},
                          {"role", role_of(slot.values())},
                          {"kind", path.substr(path.rfind('.') + 1)},
                          {"quantizer", description.kind},
                          {"bits", description.bits},
                          {"range", {description.range.low, description.range.high}},
                          {"steps", description.scale},
                          {"offsets", description.offset},
                          {"groups", std::max<size_t>(1, description.scale.size())},
                          {"grad_scale", grad_scale(slot, description, count)},
                          {"shape", shape},
                          {"numel", count},
                          {"bytes",
                           {{"float", 4 * count},
                            {"packed", quant::packed_size(static_cast<uint64_t>(count), description.bits)}}}};
    const bool known = weight && (slot.get()->ready() && count > 0);
    if (known) {
        const quant::Inspection inspection = quant::inspect(*slot.get(), slot.weight().value());
        add_elements(entry, &inspection);
        // Of 1 bit the step follows from the weight: its mean size.
        if (description.scale.empty()) entry["steps"] = {entry["variation"]["magnitude"]};
    } else {
        add_elements(entry, nullptr);
    }
    add_sample_scale(entry, *slot.get(), known ? slot.weight().shape() : engine::Shape{}, count);
    for (const char* later : {"oscillation", "frozen", "sensitivity", "severity", "reason"}) {
        entry[later] = nullptr;
    }
    return entry;
}

ordered_json checkpoint_json(const Checkpoint& checkpoint) {
    ordered_json json = {
        {"path", checkpoint.path()}, {"step", nullptr}, {"epoch", nullptr}, {"top1", nullptr}};
    if (!checkpoint.info()) return json;
    json["step"] = checkpoint.info()->step;
    json["epoch"] = checkpoint.info()->epoch;
    if (checkpoint.info()->best_acc1 >= 0) json["top1"] = checkpoint.info()->best_acc1;
    return json;
}

ordered_json model_json(Inspected& inspected, const QuantizerFlags& flags) {
    const nn::ModelConfig& config = inspected.model->config();
    const auto width = [](int bits) { return bits < 1 || bits > 8 ? quant::kFloatBits : bits; };
    std::set<const void*> counted;
    int64_t parameters = 0, heads = 0, depth = 0;
    for (const nn::NamedParameter& p : inspected.model->parameters()) {
        if (counted.insert(p.parameter.value().raw()).second) parameters += p.parameter.shape().numel();
    }
    for (const auto& [path, slot] : quant::slots_by_path(*inspected.model)) {
        if (slot->values() != nn::Values::probability) continue;
        if (depth == 0) heads = slot->heads();
        ++depth;
    }
    ordered_json json = {{"name", config.name},
                         {"family", config.family},
                         {"image_size", config.img_size},
                         {"classes", config.num_classes},
                         {"wbits", width(flags.wbits)},
                         {"abits", width(flags.abits)},
                         {"bits_by_name", flags.bits},
                         {"parameters", parameters},
                         {"heads", heads},
                         {"depth", depth},
                         {"tokens", nullptr}};
    for (const auto& [path, values] : inspected.cost.values) {
        const bool first = path.ends_with(".quant_input") && values.shape.rank() == 3;
        if (first && json["tokens"].is_null()) json["tokens"] = values.shape[1];
    }
    return json;
}

/// Bytes of the whole model, and its mean widths.
void add_sizes(Inspected& inspected) {
    double float_bytes = 0, packed = 0, weights = 0, weight_bits = 0, values = 0, value_bits = 0;
    std::map<const void*, int> widths;  // of quantized weights
    for (const auto& [path, slot] : quant::slots(*inspected.model)) {
        const auto found = inspected.bits.find(path);
        const int bits = found == inspected.bits.end() ? quant::kFloatBits : found->second;
        if (slot->values() == nn::Values::weight) {
            const auto count = static_cast<double>(slot->weight().shape().numel());
            if (bits < quant::kFloatBits) widths[slot->weight().value().raw()] = bits;
            weights += count;
            weight_bits += count * bits;
        } else if (const auto seen = inspected.cost.values.find(path); seen != inspected.cost.values.end()) {
            values += static_cast<double>(seen->second.count);
            value_bits += static_cast<double>(seen->second.count) * bits;
        }
    }
    const auto add = [&](const nn::Tensor& tensor, const int* bits) {
        const auto count = static_cast<uint64_t>(tensor.numel());
        float_bytes += 4 * static_cast<double>(count);
        packed += static_cast<double>(bits == nullptr ? 4 * count : quant::packed_size(count, *bits));
    };
    std::set<const void*> counted;
    for (const nn::NamedParameter& p : inspected.model->parameters()) {
        const void* raw = p.parameter.value().raw();
        const auto width = widths.find(raw);
        if (counted.insert(raw).second) {
            add(p.parameter.value(), width == widths.end() ? nullptr : &width->second);
        }
    }
    for (const auto& [name, buffer] : inspected.model->buffers()) add(buffer, nullptr);
    inspected.json["bytes"] = {{"float", static_cast<int64_t>(float_bytes)},
                               {"packed", static_cast<int64_t>(packed)}};
    inspected.json["average_bits"] = {{"weight", weight_bits / weights}, {"activation", value_bits / values}};
}

/// "oscillation" and "frozen" of the weights, where the checkpoint has what --track-osc keeps.
void add_oscillation(Inspected& inspected, const Checkpoint& checkpoint) {
    if (!checkpoint.info() || checkpoint.info()->recipe.count("track-osc") == 0) return;
    const std::map<std::string, std::string>& recipe = checkpoint.info()->recipe;
    double threshold = 0;
    const auto freezing = recipe.find("freeze-osc");
    const bool known = freezing != recipe.end() && parse_text(freezing->second, threshold);
    if (recipe.at("track-osc") != "true" || !known) return;
    quant::OscillationTracker tracker(*inspected.model, threshold > 0);
    for (const auto& [name, tensor] : tracker.state()) {
        if (!checkpoint.file().contains(std::string(data::kOptimizerPrefix) + name)) return;  // a packed file
    }
    checkpoint.load_oscillation(tracker);
    for (const auto& [path, found] : tracker.layers()) {
        for (ordered_json& entry : inspected.json["quantizers"]) {
            if (entry["name"] != path) continue;
            entry["oscillation"] = {{"share", found.share}, {"mean", found.mean}};
            entry["frozen"] = found.frozen;
        }
    }
}

}  // namespace

void add_elements(ordered_json& entry, const quant::Inspection* inspection) {
    if (inspection == nullptr) {
        for (const char* field : {"min", "max", "mean", "std", "occupancy", "clipped", "snr_db", "entropy",
                                  "distance", "variance_in_bins", "variation", "histogram", "sample"}) {
            entry[field] = nullptr;
        }
        return;
    }
    const std::vector<double>& values = inspection->values;
    const quant::Variation variation = quant::variation(values);
    entry["min"] = variation.least;
    entry["max"] = variation.most;
    entry["mean"] = variation.mean;
    entry["std"] = variation.deviation;
    entry["occupancy"] = ordered_json::array();
    for (const int64_t count : inspection->occupancy) {
        entry["occupancy"].push_back(static_cast<double>(count) / static_cast<double>(values.size()));
    }
    entry["clipped"] = {{"below", inspection->clipped_below}, {"above", inspection->clipped_above}};
    entry["snr_db"] = number(inspection->signal_to_noise_db);
    entry["entropy"] = quant::entropy_bits(inspection->occupancy);
    const quant::Distances distance = quant::distances(*inspection);
    entry["distance"] = {{"center", distance.center},
                         {"boundary", distance.boundary},
                         {"near_boundary", distance.near_boundary}};
    entry["variance_in_bins"] = quant::variance_in_bins(*inspection);
    entry["variation"] = {{"magnitude", variation.magnitude},
                          {"outlier", number(variation.outlier)},
                          {"kurtosis", number(variation.kurtosis)}};
    const quant::Histogram histogram = quant::histogram(values, kHistogramBins);
    entry["histogram"] = {{"low", histogram.low}, {"high", histogram.high}, {"counts", histogram.counts}};
    const size_t sample = std::min(kSample, values.size());
    entry["sample"] = ordered_json::array();
    for (size_t i = 0; i < sample; ++i) {
        entry["sample"].push_back(
            six_digits(values[static_cast<size_t>(sampled(i, sample, static_cast<int64_t>(values.size())))]));
    }
}

void add_sample_scale(ordered_json& entry, const nn::Quantizer& quantizer, const engine::Shape& x,
                      int64_t total) {
    for (const char* field : {"sample_grad_scale", "sample_group"}) entry[field] = nullptr;
    const nn::QuantizerDescription description = quantizer.describe();
    if (!entry["sample"].is_array() || description.range.high <= 0) return;
    const auto sample = entry["sample"].get<std::vector<double>>();
    const auto groups = static_cast<int64_t>(std::max<size_t>(1, description.scale.size()));
    const auto count = static_cast<double>(sample.size());
    double sum = 0;
    for (const double value : sample) sum += std::fabs(value) / static_cast<double>(groups);
    entry["sample_grad_scale"] =
        number(description.weight || groups > 1 ? 1 / std::sqrt(sum * description.range.high)
                                                : 1 / (std::sqrt(count) * description.range.high));
    const auto* lsq = quant::as_lsq(&quantizer);
    if (lsq == nullptr || groups == 1) return;
    const int64_t inner = lsq->values_for(x).inner;
    entry["sample_group"] = ordered_json::array();
    for (size_t i = 0; i < sample.size(); ++i) {
        entry["sample_group"].push_back(sampled(i, sample.size(), total) / inner % groups);
    }
}

Inspected inspect_checkpoint(Options& options, const Checkpoint& checkpoint, const Compute& compute,
                             int64_t classes, std::vector<std::string>& notes) {
    Inspected found;
    found.path = checkpoint.path();
    found.compute = compute;
    found.model = load_model(options, checkpoint, classes, compute, notes);
    for (const auto& named : quant::slots(*found.model)) {
        if (named.second->get() != nullptr) found.slots.push_back(named);
    }
    if (found.slots.empty()) {
        engine::input_error(checkpoint.path(),
                            " holds a full-precision model, which has no quantizers to inspect; name a "
                            "checkpoint of `vvtq train`");
    }
    for (const auto& [path, slot] : found.slots) found.bits[path] = slot->get()->describe().bits;
    found.cost = quant::picture_cost(*found.model, any_picture(found.model->config(), compute));
    found.json = {
        {"format", "vvtq inspect 1"}, {"version", VVTQ_VERSION}, {"checkpoint", checkpoint_json(checkpoint)}};
    found.json["model"] = model_json(found, options.quantizer);
    add_sizes(found);
    found.json["bit_operations"] = quant::bit_operations(found.cost.products, found.bits);
    found.json["data"] = nullptr;
    found.json["quantizers"] = ordered_json::array();
    for (const auto& [path, slot] : found.slots) {
        found.json["quantizers"].push_back(entry_of(path, *slot, found.cost));
    }
    add_oscillation(found, checkpoint);
    for (const char* later : {"attention", "tokens", "training", "other"}) found.json[later] = nullptr;
    return found;
}

}  // namespace vvtq::apps
