// `vvtq inspect --suggest-bits`: widths by name within a budget.
#include <cmath>
#include <set>

#include "apps/commands/inspection.h"
#include "apps/training/value_text.h"
#include "data/bytes.h"
#include "engine/check.h"
#include "quant/attach.h"
#include "quant/inspect/allocate.h"

namespace vvtq::apps {
namespace {

using Widths = std::map<std::string, int>;

constexpr int kLeastBits = 2;

/// The widths where weights and activations that are free to change have so many bits.
Widths uniform(const Inspected& inspected, int weights, int activations) {
    Widths widths = inspected.bits;
    for (const auto& [path, slot] : inspected.slots) {
        if (slot->bits() == nn::Bits::always_8) continue;
        widths[path] = slot->values() == nn::Values::weight ? weights : activations;
    }
    return widths;
}

/// "W3A3" as two widths; false where the text is no such pair.
bool parse_pair(const std::string& text, int& weights, int& activations) {
    const size_t middle = text.find('A');
    return text.starts_with("W") && middle != std::string::npos &&
           parse_text(text.substr(1, middle - 1), weights) &&
           parse_text(text.substr(middle + 1), activations) && std::min(weights, activations) >= kLeastBits &&
           std::max(weights, activations) <= 8;
}

}  // namespace

SuggestedBits suggest_bits(const Inspected& inspected, const InspectFlags& flags) {
    const bool of_bytes = flags.budget_of == "bytes";
    std::map<std::string, double> counts;  // of weights
    for (const auto& [path, slot] : inspected.slots) {
        if (slot->values() != nn::Values::weight) continue;
        counts[path] = static_cast<double>(slot->weight().shape().numel());
    }
    const auto cost = [&](const Widths& widths) {
        if (!of_bytes) return quant::bit_operations(inspected.cost.products, widths);
        double bytes = 0;
        for (const auto& [path, count] : counts) bytes += std::ceil(count * widths.at(path) / 8);
        return bytes;
    };
    int weights = 0, activations = 0;
    double budget = 0;
    if (parse_pair(flags.suggest_bits, weights, activations)) {
        budget = cost(uniform(inspected, weights, activations));
    } else if (!parse_text(flags.suggest_bits, budget) || !std::isfinite(budget) || budget <= 0) {
        engine::input_error("--suggest-bits: '", data::printable(flags.suggest_bits),
                            "' is no budget: give a number above 0, or widths such as W3A3");
    }
    Widths start = uniform(inspected, kLeastBits, kLeastBits);
    std::vector<quant::BitLoss> losses;
    for (const ordered_json& entry : inspected.json["quantizers"]) {
        const auto path = entry["name"].get<std::string>();
        const bool weight = entry["role"] == "weight";
        if (of_bytes && !weight) start[path] = inspected.bits.at(path);  // they take no bytes of the file
        if (start[path] != kLeastBits || entry["sensitivity"].is_null() || (of_bytes && !weight)) continue;
        losses.push_back({path, entry["sensitivity"]["float"]["loss"].get<double>(),
                          entry["sensitivity"]["two_bit"]["loss"].get<double>()});
    }
    // A gain of some pictures' loss is measured with noise: none counts as less than a share of the mean one.
    constexpr double kLeastShare = 0.1;
    double gains = 0;
    for (const quant::BitLoss& loss : losses) gains += std::max(0.0, loss.two_bit - loss.as_float);
    const double least = kLeastShare * gains / static_cast<double>(std::max<size_t>(1, losses.size()));
    for (quant::BitLoss& loss : losses) loss.as_float = std::min(loss.as_float, loss.two_bit - least);
    if (cost(start) > budget) {
        engine::input_error("--suggest-bits: ", flags.suggest_bits, " is less than the ", cost(start), " ",
                            of_bytes ? "bytes" : "bit operations", " of 2 bits everywhere; give more");
    }
    const Widths found = quant::allocate_bits(losses, start, budget, cost);
    SuggestedBits suggested;
    suggested.file =
        "# of `vvtq inspect --suggest-bits " + flags.suggest_bits + " --budget-of " + flags.budget_of + "`\n";
    for (const auto& [path, slot] : inspected.slots) {
        if (slot->bits() == nn::Bits::always_8) continue;
        suggested.file += "\"" + path + "\" = " + std::to_string(found.at(path)) + "\n";
    }
    suggested.line =
        engine::concat("suggested bits: ", cost(found), " ", of_bytes ? "bytes of weights" : "bit operations",
                       " of a budget of ", budget);
    for (int bits = 2; bits <= 4; ++bits) {
        suggested.line += engine::concat(bits == 2 ? "; uniform W" : ", W", bits, "A", bits, " ",
                                         cost(uniform(inspected, bits, bits)));
    }
    return suggested;
}

}  // namespace vvtq::apps
