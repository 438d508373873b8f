#include "apps/training/checkpoint_info.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/training/value_text.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "vvtq-checkpoint";
constexpr const char* kVersion = "2";
constexpr const char* kUnchecked = "1";  // files without checksums

json model_to_json(const nn::ModelConfig& config) {
    json j = {{"name", config.name}, {"family", config.family}};
    for (const nn::Field& field : nn::family_of(config).fields) {
        std::visit([&](const auto& size) { j[field.key_in_files()] = size; }, field.get(config));
    }
    return j;
}

/// The inverse. Throws json::exception or engine::Error where such a model cannot have been written: no
/// published name with its family, or sizes out of bounds.
nn::ModelConfig model_from_json(const json& j) {
    nn::ModelConfig config = nn::model_config(j.at("name").get<std::string>());
    const int64_t published_chans = config.in_chans;
    VVTQ_CHECK(j.at("family").get<std::string>() == config.family, "of another family");
    for (const nn::Field& field : nn::family_of(config).fields) {
        nn::Size size = field.get(config);
        std::visit([&](auto& value) { j.at(field.key_in_files()).get_to(value); }, size);
        field.set(config, size);
        field.check(config);
    }
    VVTQ_CHECK(config.in_chans == published_chans, "pictures of ", config.in_chans, " channels");
    return config;
}

/// In the order in which files have them.
constexpr double RunningMeans::*kMeans[] = {
    &RunningMeans::pictures, &RunningMeans::loss,       &RunningMeans::regularizer, &RunningMeans::top1,
    &RunningMeans::top5,     &RunningMeans::usual_loss, &RunningMeans::usual_steps};

std::string means_text(const RunningMeans& means) {
    std::vector<double> values;
    for (const auto member : kMeans) values.push_back(means.*member);
    return value_text(values);
}

/// Reads entries of the metadata; every failure names the file.
struct Reader {
    const std::map<std::string, std::string>& metadata;
    const std::string& path;

    [[noreturn]] void fail(const std::string& key) const {
        engine::input_error(path, ": metadata '", key,
                            "' of the checkpoint is missing or damaged; name another file");
    }
    const std::string& text(const std::string& key) const {
        const auto at = metadata.find(key);
        if (at == metadata.end()) fail(key);
        return at->second;
    }
    template <typename T>
    void read_json(const std::string& key, T& value) const {
        try {
            json::parse(text(key)).get_to(value);
        } catch (const json::exception&) {
            fail(key);
        }
    }
    /// A number from 0 to 2^62.
    int64_t count(const std::string& key) const {
        int64_t value = 0;
        if (!parse_text(text(key), value) || value < 0 || value > (int64_t{1} << 62)) fail(key);
        return value;
    }
    RunningMeans means(const std::string& key) const {
        std::vector<double> values;
        if (!parse_text(text(key), values) || values.size() != std::size(kMeans)) fail(key);
        RunningMeans means;
        for (size_t i = 0; i < values.size(); ++i) {
            if (!std::isfinite(values[i])) fail(key);
            means.*kMeans[i] = values[i];
        }
        return means;
    }
    uint64_t number(const std::string& key) const {
        uint64_t value = 0;
        if (!parse_text(text(key), value)) fail(key);
        return value;
    }
};

}  // namespace

bool is_checkpoint(const std::map<std::string, std::string>& metadata) {
    const auto format = metadata.find("format");
    return format != metadata.end() && format->second == kFormat;
}

std::map<std::string, std::string> to_metadata(const CheckpointInfo& info) {
    std::map<std::string, std::string> metadata = {
        {"format", kFormat},
        {"format_version", kVersion},
        {"command", info.command},
        {"model", model_to_json(info.model).dump()},
        {"quantized", value_text(info.quantized)},
        {"flags", json(info.recipe).dump()},
        {"epoch", value_text(info.epoch)},
        {"batch", value_text(info.batch)},
        {"crops", value_text(info.crops)},
        {"means", means_text(info.means)},
        {"step", value_text(info.step)},
        {"best_acc1", value_text(info.best_acc1)},
        {"dataset", value_text(info.dataset)},
        {"class_names", json(info.class_names).dump(-1, ' ', false, json::error_handler_t::replace)},
        {"labels", value_text(info.labels)},
    };
    if (!info.evaluation_crop.empty()) metadata["evaluation_crop"] = info.evaluation_crop;
    return metadata;
}

CheckpointInfo from_metadata(const std::map<std::string, std::string>& metadata, const std::string& path) {
    const Reader in{metadata, path};
    CheckpointInfo info;
    info.checked = in.text("format_version") != kUnchecked;
    if (info.checked && in.text("format_version") != kVersion) {
        engine::input_error(path, ": checkpoint version ", in.text("format_version"),
                            " is unknown; this program writes ", kVersion);
    }
    info.command = in.text("command");
    try {
        info.model = model_from_json(json::parse(in.text("model")));
    } catch (const std::exception&) {
        in.fail("model");
    }
    if (metadata.count("class_names") != 0) in.read_json("class_names", info.class_names);
    in.read_json("flags", info.recipe);
    info.quantized = in.text("quantized") == "true";
    const int64_t epoch = in.count("epoch");
    if (epoch > 1000000) in.fail("epoch");
    info.epoch = static_cast<int>(epoch);
    info.batch = in.count("batch");
    if (metadata.count("crops") + metadata.count("means") > 0) {  // older files have neither
        const int64_t crops = in.count("crops");
        if (crops > 10000) in.fail("crops");
        info.crops = static_cast<int>(crops);
        info.means = in.means("means");
    }
    info.step = in.count("step");
    if (!parse_text(in.text("best_acc1"), info.best_acc1) ||
        !(info.best_acc1 >= -1 && info.best_acc1 <= 100)) {
        in.fail("best_acc1");
    }
    info.dataset = in.number("dataset");
    info.labels = in.number("labels");
    if (metadata.count("evaluation_crop") != 0) {
        info.evaluation_crop = in.text("evaluation_crop");
        double share = 0;
        const bool number = parse_text(info.evaluation_crop, share) && share > 0 && share <= 1;
        if (!number && info.evaluation_crop != "whole") in.fail("evaluation_crop");
    }
    return info;
}

}  // namespace vvtq::apps
