#include "nn/family.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include "engine/check.h"
#include "nn/deit.h"
#include "nn/sret.h"
#include "nn/swin.h"

namespace vvtq::nn {

namespace {

constexpr std::string_view kQuantSuffix = "_quant";
constexpr size_t kMostStages = 8;

/// The families of nn/. They are listed here because a linker drops objects of a static library that nothing
/// refers to.
std::deque<Family>& registry() {
    static std::deque<Family> all = [] {
        std::deque<Family> built_in = {deit_family(), distilled_deit_family(), swin_family(), sret_family()};
        for (Family& family : built_in) {
            for (ModelConfig& preset : family.presets) preset.family = family.name;
        }
        return built_in;
    }();
    return all;
}

/// The name without its suffix, where it has one.
std::string plain_name(const std::string& name) {
    return name.ends_with(kQuantSuffix) ? name.substr(0, name.size() - kQuantSuffix.size()) : name;
}

/// The shortest text that reads back to the same value.
std::string number_text(double value) {
    constexpr double kWhole = 1e15;  // below it whole numbers have all their digits, not an exponent
    if (std::floor(value) == value && std::abs(value) < kWhole)
        return std::to_string(static_cast<int64_t>(value));
    char text[40];
    return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

}  // namespace

std::string size_text(const Size& size) {
    if (const auto* whole = std::get_if<int64_t>(&size)) return std::to_string(*whole);
    if (const auto* ratio = std::get_if<double>(&size)) return number_text(*ratio);
    std::string text;
    for (const int64_t number : std::get<std::vector<int64_t>>(size)) {
        text += (text.empty() ? "" : " ") + std::to_string(number);
    }
    return text;
}

bool Bounds::hold(double value) const {
    return (above_low ? value > low : value >= low) && (below_high ? value < high : value <= high);
}

std::string Bounds::text() const {
    if (!above_low && !below_high) return number_text(low) + " to " + number_text(high);
    return (above_low ? "above " : "at least ") + number_text(low) +
           (below_high ? " and below " : " and at most ") + number_text(high);
}

Size Field::get(const ModelConfig& config) const {
    return std::visit(
        [&](const auto at) -> Size {
            if constexpr (std::is_same_v<decltype(at), const std::monostate>) {
                const auto value = config.own.find(name);
                VVTQ_CHECK(value != config.own.end(), config.name, " has no ", name);
                return value->second;
            } else {
                return config.*at;
            }
        },
        where);
}

void Field::set(ModelConfig& config, const Size& size) const {
    VVTQ_CHECK(size.index() == get(config).index(), name, " is of another kind");
    std::visit(
        [&](const auto at) {
            if constexpr (std::is_same_v<decltype(at), const std::monostate>) {
                config.own[name] = size;
            } else {
                config.*at = std::get<std::decay_t<decltype(config.*at)>>(size);
            }
        },
        where);
}

void Field::check(const ModelConfig& config) const {
    const Size size = get(config);
    if (const auto* numbers = std::get_if<std::vector<int64_t>>(&size)) {
        if (numbers->empty() || numbers->size() > kMostStages) {
            engine::input_error("`", name, "`: ", numbers->size(), " stages; give 1 to ", kMostStages);
        }
        for (size_t stage = 0; stage < numbers->size(); ++stage) {
            if (bounds.hold(static_cast<double>((*numbers)[stage]))) continue;
            engine::input_error("`", name, "` ", (*numbers)[stage], " in stage ", stage + 1, ": give ",
                                bounds.text());
        }
        return;
    }
    const auto* whole = std::get_if<int64_t>(&size);
    const double value = whole != nullptr ? static_cast<double>(*whole) : std::get<double>(size);
    if (!bounds.hold(value)) engine::input_error("`", name, "` ", size_text(size), ": give ", bounds.text());
}

const Field* Family::askable(const std::string& field) const {
    const auto at = std::find_if(fields.begin(), fields.end(), [&](const Field& candidate) {
        return candidate.name == field && !candidate.help.empty();
    });
    return at == fields.end() ? nullptr : &*at;
}

std::vector<Field> common_fields() {
    return {{"img_size", &ModelConfig::img_size, {1, 4096}, "pictures are resized to this"},
            {"patch_size", &ModelConfig::patch_size, {1, 4096}, "side of a patch"},
            {"in_chans", &ModelConfig::in_chans, {1, 1024}},
            {"num_classes", &ModelConfig::num_classes, {1, 1'000'000}},
            {"embed_dim", &ModelConfig::embed_dim, {1, 16384}, "width of the first stage"},
            {"mlp_ratio", &ModelConfig::mlp_ratio, {0, 64, true}},
            {"drop_path", &ModelConfig::drop_path, {0, 1, false, true}}};
}

const std::deque<Family>& families() { return registry(); }

void register_family(Family family) {
    VVTQ_CHECK(family.build != nullptr && !family.presets.empty(), "family ", family.name,
               " needs presets and a function that builds");
    const std::vector<std::string> names = model_names();
    for (const Family& known : registry()) VVTQ_CHECK(known.name != family.name, family.name, " is taken");
    for (ModelConfig& preset : family.presets) {
        VVTQ_CHECK(std::find(names.begin(), names.end(), plain_name(preset.name)) == names.end(), preset.name,
                   " is taken");
        preset.family = family.name;
    }
    registry().push_back(std::move(family));
}

const Family& family_of(const ModelConfig& config) {
    for (const Family& family : registry()) {
        if (family.name == config.family) return family;
    }
    engine::input_error("model family \"", config.family, "\" is unknown");
}

ModelConfig model_config(const std::string& name) {
    std::string known;
    for (const Family& family : registry()) {
        for (const ModelConfig& preset : family.presets) {
            if (name == preset.name || name == plain_name(preset.name)) return preset;
            known += (known.empty() ? "" : ", ") + preset.name;
        }
    }
    engine::input_error("`model` ", name, " is unknown: choose one of ", known, ", with or without _quant");
}

std::vector<std::string> model_names() {
    std::vector<std::string> names;
    for (const Family& family : registry()) {
        for (const ModelConfig& preset : family.presets) {
            names.push_back(plain_name(preset.name));
            if (names.back() != preset.name) names.push_back(preset.name);
        }
    }
    return names;
}

}  // namespace vvtq::nn
