#include "apps/training/checkpoint_info.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "apps/options/flag_text.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "vvtq-checkpoint";
constexpr const char* kVersion = "1";

json model_to_json(const nn::ModelConfig& c) {
    json j = {{"name", c.name},           {"family", c.family},
              {"img_size", c.img_size},   {"patch_size", c.patch_size},
              {"in_chans", c.in_chans},   {"num_classes", c.num_classes},
              {"embed_dim", c.embed_dim}, {"depth", c.depth},
              {"num_heads", c.num_heads}, {"mlp_ratio", c.mlp_ratio},
              {"drop_path", c.drop_path}};
    if (c.family == "deit") return j;
    j["depths"] = c.depths;
    j["heads"] = c.heads;
    j["window_size"] = c.window_size;
    j["np_ratio"] = c.np_ratio;
    return j;
}

nn::ModelConfig model_from_json(const json& j) {
    nn::ModelConfig c;
    c.name = j.at("name").get<std::string>();
    c.family = j.at("family").get<std::string>();
    c.img_size = j.at("img_size").get<int64_t>();
    c.patch_size = j.at("patch_size").get<int64_t>();
    c.in_chans = j.at("in_chans").get<int64_t>();
    c.num_classes = j.at("num_classes").get<int64_t>();
    c.embed_dim = j.at("embed_dim").get<int64_t>();
    c.depth = j.at("depth").get<int64_t>();
    c.num_heads = j.at("num_heads").get<int64_t>();
    c.mlp_ratio = j.at("mlp_ratio").get<double>();
    c.drop_path = j.at("drop_path").get<double>();
    if (c.family == "deit") return c;
    c.depths = j.at("depths").get<std::vector<int64_t>>();
    c.heads = j.at("heads").get<std::vector<int64_t>>();
    c.window_size = j.at("window_size").get<int64_t>();
    c.np_ratio = j.at("np_ratio").get<double>();
    return c;
}

/// Whether such a model can have been written: a published name with its family, and sizes in bounds.
bool is_plausible(const nn::ModelConfig& c) {
    const std::vector<std::string> names = nn::model_names();
    if (std::find(names.begin(), names.end(), c.name) == names.end()) {
        return false;
    }
    const nn::ModelConfig published = nn::model_config(c.name);
    constexpr int64_t kLargest = 1000000;
    const auto sane = [](int64_t size) { return size >= 1 && size <= kLargest; };
    const auto all_sane = [&](const std::vector<int64_t>& sizes) {
        return sizes.size() <= 8 && sizes.empty() == published.depths.empty() &&
               std::all_of(sizes.begin(), sizes.end(), sane);
    };
    return c.family == published.family && all_sane(c.depths) && all_sane(c.heads) && sane(c.window_size) &&
           c.np_ratio > 0 && c.np_ratio <= 64 && c.in_chans == published.in_chans && sane(c.img_size) &&
           sane(c.patch_size) && sane(c.num_classes) && sane(c.embed_dim) && sane(c.depth) &&
           sane(c.num_heads) && c.mlp_ratio > 0 && c.mlp_ratio <= 64 && c.drop_path >= 0 && c.drop_path < 1;
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
        if (at == metadata.end()) {
            fail(key);
        }
        return at->second;
    }
    /// A number from 0 to 2^62.
    int64_t count(const std::string& key) const {
        int64_t value = 0;
        if (!parse_text(text(key), value) || value < 0 || value > (int64_t{1} << 62)) {
            fail(key);
        }
        return value;
    }
    uint64_t number(const std::string& key) const {
        uint64_t value = 0;
        if (!parse_text(text(key), value)) {
            fail(key);
        }
        return value;
    }
};

}  // namespace

bool is_checkpoint(const std::map<std::string, std::string>& metadata) {
    const auto format = metadata.find("format");
    return format != metadata.end() && format->second == kFormat;
}

std::map<std::string, std::string> to_metadata(const CheckpointInfo& info) {
    return {{"format", kFormat},
            {"format_version", kVersion},
            {"command", info.command},
            {"model", model_to_json(info.model).dump()},
            {"quantized", flag_text(info.quantized)},
            {"flags", json(info.course).dump()},
            {"epoch", flag_text(info.epoch)},
            {"batch", flag_text(info.batch)},
            {"step", flag_text(info.step)},
            {"best_acc1", flag_text(info.best_acc1)},
            {"dataset", flag_text(info.dataset)},
            {"labels", flag_text(info.labels)}};
}

CheckpointInfo from_metadata(const std::map<std::string, std::string>& metadata, const std::string& path) {
    const Reader in{metadata, path};
    if (in.text("format_version") != kVersion) {
        engine::input_error(path, ": checkpoint version ", in.text("format_version"),
                            " is unknown; this program writes ", kVersion);
    }
    CheckpointInfo info;
    info.command = in.text("command");
    try {
        info.model = model_from_json(json::parse(in.text("model")));
    } catch (const json::exception&) {
        in.fail("model");
    }
    if (!is_plausible(info.model)) {
        in.fail("model");
    }
    try {
        info.course = json::parse(in.text("flags")).get<std::map<std::string, std::string>>();
    } catch (const json::exception&) {
        in.fail("flags");
    }
    info.quantized = in.text("quantized") == "true";
    const int64_t epoch = in.count("epoch");
    if (epoch > 1000000) {
        in.fail("epoch");
    }
    info.epoch = static_cast<int>(epoch);
    info.batch = in.count("batch");
    info.step = in.count("step");
    if (!parse_text(in.text("best_acc1"), info.best_acc1) ||
        !(info.best_acc1 >= -1 && info.best_acc1 <= 100)) {
        in.fail("best_acc1");
    }
    info.dataset = in.number("dataset");
    info.labels = in.number("labels");
    return info;
}

QuantizerFlags quantizer_flags(const CheckpointInfo& info, const std::string& path) {
    QuantizerFlags flags;
    const auto read = [&](const char* name, auto& value) {
        const auto text = info.course.find(name);
        if (text == info.course.end() || !parse_text(text->second, value)) {
            engine::input_error(path, ": the checkpoint does not say --", name, "; name another file");
        }
    };
    read("wbits", flags.wbits);
    read("abits", flags.abits);
    read("fixed-scale", flags.fixed_scale);
    if (info.course.count("head-wise") != 0) read("head-wise", flags.head_wise);  // older files do not say
    return flags;
}

}  // namespace vvtq::apps
