// `vvtq inspect`: which quantizers are worst and why, and the tables of the terminal.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>

#include "apps/commands/inspection.h"
#include "data/bytes.h"
#include "engine/check.h"
#include "quant/inspect/figures.h"

namespace vvtq::apps {
namespace {

constexpr size_t kWorst = 5;

/// printf of one value.
template <typename T>
std::string text(const char* format, T value) {
    char shown[96];
    std::snprintf(shown, sizeof shown, format, value);
    return shown;
}

/// "12.3", or "-" where it is not known.
std::string cell(const char* format, const ordered_json& value) {
    return value.is_number() ? text(format, value.get<double>()) : "-";
}

/// "1.23 M": a number with three digits and its thousands.
std::string thousands(double value) {
    const char* const units[] = {"", " k", " M", " G", " T", " P"};
    size_t unit = 0;
    while (value >= 1000 && unit + 1 < std::size(units)) {
        value /= 1000;
        ++unit;
    }
    return text("%.3g", value) + units[unit];
}

double clipped_of(const ordered_json& entry) {
    if (entry["clipped"].is_null()) return -1;
    return entry["clipped"]["below"].get<double>() + entry["clipped"]["above"].get<double>();
}

/// The share of the loss that goes away where this quantizer alone is float.
double loss_share(const ordered_json& entry, const ordered_json& inspection) {
    if (entry["sensitivity"].is_null()) return 0;
    const double loss = inspection["data"]["loss"].get<double>();
    return (loss - entry["sensitivity"]["float"]["loss"].get<double>()) / std::max(loss, 1e-9);
}

/// severity: the share of its bits that a quantizer loses to noise beyond the best one's, plus ten times the
/// share of the loss that goes away with it. A tensor with one code loses all bits.
void judge(ordered_json& entry, const ordered_json& inspection) {
    if (entry["occupancy"].is_null()) {
        entry["severity"] = nullptr;
        entry["reason"] = "not measured: needs pictures";
        return;
    }
    constexpr double kBit = 6.02, kLossWeight = 10;  // dB of a bit
    const int bits = entry["bits"].get<int>();
    const double best = quant::normal_signal_to_noise_db(bits), entropy = entry["entropy"].get<double>();
    const bool exact = entry["snr_db"].is_null();
    const double snr = exact ? best : entry["snr_db"].get<double>();
    double severity = entropy == 0 ? 1.0 : std::max(0.0, (best - snr) / kBit / bits);
    std::string reason = entropy == 0 ? "all values have one code"
                         : exact      ? "no noise: its values are those of its codes"
                                      : text("%.1f dB", snr) + text(" (%d bits reach", bits) +
                                       text(" %.1f dB on normal numbers)", best);
    if (entropy > 0) {
        reason += text("; codes carry %.2f", entropy) + text(" of %d bits", bits) +
                  text("; %.0f %% clipped", 100 * clipped_of(entry));
    }
    const double share = loss_share(entry, inspection);
    if (share > 0) {
        severity += kLossWeight * share;
        reason = text("%.1f %% of the loss go away when it alone is float; ", 100 * share) + reason;
    }
    entry["severity"] = severity;
    entry["reason"] = reason;
}

/// A column that a table can be sorted by: its value, of which the least comes first.
struct Key {
    const char* name;
    std::function<double(const ordered_json&)> first;
};

double or_last(const ordered_json& value, double sign) {
    return value.is_number() ? sign * value.get<double>() : std::numeric_limits<double>::infinity();
}

const std::vector<Key>& keys() {
    static const std::vector<Key> all = {
        {"severity", [](const ordered_json& e) { return or_last(e["severity"], -1); }},
        {"name", nullptr},
        {"snr", [](const ordered_json& e) { return or_last(e["snr_db"], 1); }},
        {"clipped", [](const ordered_json& e) { return -clipped_of(e); }},
        {"entropy", [](const ordered_json& e) { return or_last(e["entropy"], 1); }},
        {"bytes", [](const ordered_json& e) { return or_last(e["bytes"]["packed"], -1); }},
        {"sensitivity",
         [](const ordered_json& e) {
             return e["sensitivity"].is_null() ? std::numeric_limits<double>::infinity()
                                               : e["sensitivity"]["float"]["loss"].get<double>();
         }},
    };
    return all;
}

/// The quantizers in the order of a key; those of one place in that of the model.
std::vector<const ordered_json*> sorted(const ordered_json& inspection, const std::string& sort) {
    std::vector<const ordered_json*> rows;
    for (const ordered_json& entry : inspection["quantizers"]) rows.push_back(&entry);
    const auto key = std::find_if(keys().begin(), keys().end(), [&](const Key& k) { return k.name == sort; });
    VVTQ_CHECK(key != keys().end(), "sort by ", sort);
    std::stable_sort(rows.begin(), rows.end(), [&](const ordered_json* a, const ordered_json* b) {
        return key->first ? key->first(*a) < key->first(*b) : (*a)["name"] < (*b)["name"];
    });
    return rows;
}

std::string summary(const ordered_json& inspection) {
    const ordered_json &model = inspection["model"], &bytes = inspection["bytes"], &data = inspection["data"];
    const double float_bytes = bytes["float"].get<double>(), packed = bytes["packed"].get<double>();
    std::string lines = data::printable(inspection["checkpoint"]["path"].get<std::string>()) + ": " +
                        model["name"].get<std::string>() + ", W" + cell("%.0f", model["wbits"]) + "A" +
                        cell("%.0f", model["abits"]) +
                        (model["bits_by_name"] == "" ? "" : " with widths by name") + ", " +
                        thousands(model["parameters"].get<double>()) + " parameters\n";
    lines += "accuracy        " + cell("%.2f %% when it was saved", inspection["checkpoint"]["top1"]);
    if (!data.is_null()) {
        lines += "; " + cell("%.2f %%", data["top1"]) + cell(", loss %.4f", data["loss"]) +
                 cell(" on %.0f pictures", data["pictures"]);
    }
    lines += "\nbytes           " + thousands(packed) + " packed, " + thousands(float_bytes) + " in floats" +
             text(", %.1f times smaller", float_bytes / packed);
    lines += "\naverage bits    " + cell("%.2f", inspection["average_bits"]["weight"]) + " of weights, " +
             cell("%.2f", inspection["average_bits"]["activation"]) + " of activations";
    lines += "\nbit operations  " + thousands(inspection["bit_operations"].get<double>()) + " a picture\n";
    return lines;
}

/// Columns as wide as their widest cell, the first one to the left.
std::string table(const std::vector<std::vector<std::string>>& rows) {
    std::vector<size_t> widths(rows.front().size(), 0);
    for (const auto& row : rows) {
        for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
    }
    std::string lines;
    for (const auto& row : rows) {
        std::string line;
        for (size_t c = 0; c < row.size(); ++c) {
            const std::string space(widths[c] - row[c].size(), ' ');
            line += (c == 0 ? row[c] + space : "  " + space + row[c]);
        }
        lines += line + '\n';
    }
    return lines;
}

using Rows = std::vector<std::vector<std::string>>;

/// One row for each quantizer.
Rows quantizer_rows(const ordered_json& inspection, const std::string& sort) {
    Rows rows = {
        {"quantizer", "bits", "step", "snr dB", "clipped %", "entropy", "outlier", "kurtosis", "bytes"}};
    const bool sensitivity = inspection["quantizers"][0].value("sensitivity", ordered_json()).is_object();
    if (sensitivity)
        rows[0].insert(rows[0].end(), {"loss float", "top-1 float", "loss 2-bit", "top-1 2-bit"});
    for (const ordered_json* e : sorted(inspection, sort)) {
        const ordered_json& entry = *e;
        const ordered_json none;
        const ordered_json& variation = entry["variation"];
        const double clipped = clipped_of(entry);
        rows.push_back({entry["name"].get<std::string>(), cell("%.0f", entry["bits"]),
                        entry["steps"].empty() ? "-" : cell("%.3g", entry["steps"][0]),
                        cell("%.1f", entry["snr_db"]), clipped < 0 ? "-" : text("%.1f", 100 * clipped),
                        cell("%.2f", entry["entropy"]),
                        cell("%.1f", variation.is_null() ? none : variation["outlier"]),
                        cell("%.1f", variation.is_null() ? none : variation["kurtosis"]),
                        cell("%.0f", entry["bytes"]["packed"])});
        if (!sensitivity) continue;
        for (const char* width : {"float", "two_bit"}) {
            const bool known = !entry["sensitivity"].is_null();
            rows.back().push_back(cell("%.4f", known ? entry["sensitivity"][width]["loss"] : none));
            rows.back().push_back(cell("%.2f", known ? entry["sensitivity"][width]["top1"] : none));
        }
    }
    return rows;
}

/// One row for each kind of module and role: the means of what is measured.
Rows kind_rows(const ordered_json& inspection) {
    struct Kind {
        std::string name, role;
        double count = 0, magnitude = 0, outlier = 0, kurtosis = 0, snr = 0;
    };
    std::vector<Kind> kinds;
    for (const ordered_json& entry : inspection["quantizers"]) {
        const ordered_json& variation = entry["variation"];
        if (variation.is_null() || variation["outlier"].is_null() || entry["snr_db"].is_null()) continue;
        const auto name = entry["kind"].get<std::string>(), role = entry["role"].get<std::string>();
        auto kind = std::find_if(kinds.begin(), kinds.end(),
                                 [&](const Kind& k) { return k.name == name && k.role == role; });
        if (kind == kinds.end()) {
            kind = kinds.emplace(kinds.end());
            kind->name = name;
            kind->role = role;
        }
        kind->count += 1;
        kind->magnitude += variation["magnitude"].get<double>();
        kind->outlier += variation["outlier"].get<double>();
        kind->kurtosis += variation["kurtosis"].get<double>();
        kind->snr += entry["snr_db"].get<double>();
    }
    Rows rows = {{"kind", "of", "quantizers", "magnitude", "outlier", "kurtosis", "snr dB"}};
    for (const Kind& kind : kinds) {
        rows.push_back({kind.name, kind.role, text("%.0f", kind.count),
                        text("%.4g", kind.magnitude / kind.count), text("%.1f", kind.outlier / kind.count),
                        text("%.1f", kind.kurtosis / kind.count), text("%.1f", kind.snr / kind.count)});
    }
    return rows;
}

}  // namespace

void add_severity(ordered_json& inspection) {
    for (ordered_json& entry : inspection["quantizers"]) judge(entry, inspection);
}

std::string inspection_text(const ordered_json& inspection, const InspectFlags& flags) {
    std::string lines = summary(inspection) + "\nworst:\n";
    const auto worst = sorted(inspection, "severity");
    for (size_t i = 0; i < std::min(kWorst, worst.size()); ++i) {
        lines += text("  %zu. ", i + 1) + (*worst[i])["name"].get<std::string>() + ": " +
                 (*worst[i])["reason"].get<std::string>() + '\n';
    }
    return lines + '\n' +
           table(flags.by_kind ? kind_rows(inspection) : quantizer_rows(inspection, flags.sort));
}

}  // namespace vvtq::apps
