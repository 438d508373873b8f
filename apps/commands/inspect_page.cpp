#include "apps/commands/inspect_page.h"

#include <cstdio>
#include <cstdlib>

#include "engine/check.h"

namespace vvtq::apps {

#ifndef VVTQ_HAS_PAGE

void require_inspect_page() {
    engine::input_error(
        "this vvtq was built without the page; install node-d3, then build it again, or write JSON");
}

std::string inspect_page(const nlohmann::ordered_json&) {
    require_inspect_page();
    return {};
}

#else

namespace {

using nlohmann::ordered_json;

constexpr size_t kMostEpochs = 60;  // a curve of a few hundred pixels hardly shows more
constexpr size_t kMostCodes = 16;   // areas that can be told apart

/// To six significant digits: a curve shows no more, and the text becomes half as long.
void shorten(ordered_json& value) {
    if (value.is_structured()) {
        for (ordered_json& each : value) shorten(each);
    } else if (value.is_number_float()) {
        char text[32];
        std::snprintf(text, sizeof text, "%.6g", value.get<double>());
        value = std::strtod(text, nullptr);
    }
}

void thin(ordered_json& epochs) {
    for (ordered_json& epoch : epochs) {
        for (ordered_json& quantizer : epoch["quantizers"]) {
            if (quantizer["occupancy"].size() > kMostCodes) quantizer.erase("occupancy");
        }
    }
    const size_t count = epochs.size();
    if (count <= kMostEpochs) return;
    ordered_json kept = ordered_json::array();
    for (size_t i = 0; i < kMostEpochs; ++i) {
        kept.push_back(std::move(epochs[i * (count - 1) / (kMostEpochs - 1)]));
    }
    epochs = std::move(kept);
}

/// What the page shows of the inspection.
ordered_json shown(ordered_json inspection) {
    if (inspection.contains("other") && inspection["other"].is_object()) {
        for (ordered_json& quantizer : inspection["other"]["quantizers"]) {
            for (const char* name : {"sample", "sample_group", "histogram"}) quantizer.erase(name);
        }
    }
    for (const char* part : {"attention", "tokens", "training"}) {
        if (inspection.contains(part)) shorten(inspection[part]);
    }
    if (inspection.contains("training") && inspection["training"].is_object()) {
        for (ordered_json& run : inspection["training"]["runs"]) thin(run["epochs"]);
    }
    return inspection;
}

/// As JSON in which no text can end the script element around it, or open a comment there.
std::string embedded(const ordered_json& inspection) {
    std::string text;
    for (const char c : inspection.dump(-1, ' ', false, ordered_json::error_handler_t::replace)) {
        if (c == '<') {
            text += "\\u003c";
        } else {
            text += c;
        }
    }
    return text;
}

}  // namespace

void require_inspect_page() {}

std::string inspect_page(const ordered_json& inspection) {
    return kPageBefore + embedded(shown(inspection)) + kPageAfter;
}

#endif

}  // namespace vvtq::apps
