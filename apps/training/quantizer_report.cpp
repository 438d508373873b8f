#include "apps/training/quantizer_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "engine/memory.h"
#include "quant/attach.h"

namespace vvtq::apps {
namespace {

using nlohmann::json;

/// A tag for each step: "step/<path>", with the number of the head where there are several.
void add_steps(Summary& summary, const std::string& path, const std::vector<double>& steps) {
    for (size_t i = 0; i < steps.size(); ++i) {
        summary.scalar("step/" + path + (steps.size() > 1 ? "/" + std::to_string(i) : ""), steps[i]);
    }
}

void add_oscillation(Summary& summary, const std::string& path, const quant::Oscillation& found) {
    summary.scalar("oscillation/share" + path, found.share);
    summary.scalar("oscillation/mean" + path, found.mean);
    summary.scalar("oscillation/frozen" + path, found.frozen);
}

json object_of(const quant::Oscillation& found) {
    return {{"share", found.share}, {"mean", found.mean}, {"frozen", found.frozen}};
}

/// "=> oscillation: 1.20 % of the weights, mean frequency 0.00034, most in head (2.10 %); 0.30 % are frozen"
std::string line_of(const quant::Oscillation& total,
                    const std::vector<std::pair<std::string, quant::Oscillation>>& layers, bool freezes) {
    char text[96];
    std::snprintf(text, sizeof text, "=> oscillation: %.2f %% of the weights, mean frequency %.5f",
                  100 * total.share, total.mean);
    std::string line = text;
    const auto most = std::max_element(layers.begin(), layers.end(), [](const auto& a, const auto& b) {
        return a.second.share < b.second.share;
    });
    if (most != layers.end() && most->second.share > 0) {
        std::snprintf(text, sizeof text, " (%.2f %%)", 100 * most->second.share);
        line += ", most in " + most->first + text;
    }
    std::snprintf(text, sizeof text, "; %.2f %% are frozen", 100 * total.frozen);
    return freezes ? line + text : line;
}

}  // namespace

void report_quantizers(nn::Model& model, const quant::OscillationTracker* oscillation, int epoch,
                       int64_t step, RunLog& log) {
    if (oscillation == nullptr && !log.has_events()) return;
    Summary summary;
    json layers = json::object(), activations = json::object();
    for (const auto& [path, slot] : quant::slots(model)) {
        if (slot->get() == nullptr || slot->idle()) continue;
        if (slot->values() != nn::Values::weight) {
            const std::vector<double> steps = slot->get()->describe().scale;
            activations[path] = {{"step", steps}};
            add_steps(summary, path, steps);
            continue;
        }
        const quant::WeightBins bins = quant::weight_bins(*slot);
        layers[path] = {{"step", bins.steps}};
        add_steps(summary, path, bins.steps);
        if (bins.occupancy.empty()) continue;
        layers[path].update({{"variance_in_bins", bins.variance}, {"occupancy", bins.occupancy}});
        summary.scalar("variance_in_bins/" + path, bins.variance);
        summary.histogram("codes/" + path, slot->get()->describe().range.low, bins.occupancy);
    }
    if (oscillation != nullptr) {
        const auto found = oscillation->layers();
        const quant::Oscillation total = oscillation->total(found);
        add_oscillation(summary, "", total);
        for (const auto& [path, layer] : found) {
            add_oscillation(summary, "/" + path, layer);
            layers[path].update(object_of(layer));
        }
        log.line(line_of(total, found, oscillation->freezes()));
        json object = object_of(total);
        object.update({{"epoch", epoch}, {"step", step}, {"layers", layers}, {"activations", activations}});
        log.metrics({{"kind", "oscillation"}, {"step", step}, {"oscillation", object}});
    }
    const engine::Device device = model.parameters().front().parameter.value().device();
    constexpr double kMiB = 1 << 20;
    summary.scalar("memory/peak_mib", static_cast<double>(engine::pool(device).peak()) / kMiB);
    summary.scalar("memory/in_use_mib", static_cast<double>(engine::pool(device).in_use()) / kMiB);
    log.events(step, summary);
}

}  // namespace vvtq::apps
