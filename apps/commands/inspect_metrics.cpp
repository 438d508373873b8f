// `vvtq inspect --metrics`: runs of training, from their metrics.jsonl.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "apps/commands/inspection.h"
#include "data/bytes.h"
#include "engine/check.h"
#include "quant/bin_regularizer.h"

namespace vvtq::apps {
namespace {

/// What is gathered of an epoch.
struct Epoch {
    double loss = 0, lines = 0;
    ordered_json top1, lr, oscillation, quantizers;
};

/// The steps, the shares of oscillating weights and the occupancies of one "oscillation" line.
ordered_json quantizers_of(const ordered_json& oscillation) {
    ordered_json all;
    const auto field = [](const ordered_json& layer, const char* name) {
        return layer.contains(name) ? layer[name] : ordered_json();
    };
    for (const char* group : {"layers", "activations"}) {
        const ordered_json layers = field(oscillation, group);
        for (const auto& [path, layer] : layers.items()) {
            const ordered_json steps = field(layer, "step");
            all[path] = {{"step", steps.is_array() && !steps.empty() ? steps[0] : ordered_json()},
                         {"osc", field(layer, "share")},
                         {"occupancy", field(layer, "occupancy")}};
        }
    }
    return all;
}

class Run {
  public:
    /// One object of the file.
    void add(const ordered_json& line) {
        if (line.contains("oscillation")) {
            const ordered_json& found = line["oscillation"];
            Epoch& epoch = epochs_[found.at("epoch").get<int>()];
            epoch.oscillation = {{"share", found.at("share")}, {"mean", found.at("mean")}};
            epoch.quantizers = quantizers_of(found);
            return;
        }
        const auto kind = line.value("kind", std::string());
        if (kind == "start") {
            const ordered_json& flags = line.at("flags");
            regularized_ = flags.value("reg", std::string("false")) == "true";
            epochs_in_all_ = std::stod(flags.value("epochs", std::string("0")));
        } else if (kind == "train") {
            Epoch& epoch = epochs_[line.at("epoch").get<int>()];
            if (line.at("loss").is_number()) {
                epoch.loss += line["loss"].get<double>();
                epoch.lines += 1;
            }
            epoch.lr = line.at("lr");
        } else if (kind == "eval") {
            epochs_[line.at("epoch").get<int>()].top1 = line.at("acc1");
        }
    }

    ordered_json json(const std::string& name) const {
        ordered_json run = {{"name", name}, {"reg", regularized_}, {"epochs", ordered_json::array()}};
        for (const auto& [number, epoch] : epochs_) {
            const double lambda = regularized_ && epochs_in_all_ > 0
                                      ? quant::bin_regularizer_weight(number, epochs_in_all_)
                                      : 0.0;
            run["epochs"].push_back(
                {{"epoch", number},
                 {"train_loss", epoch.lines > 0 ? ordered_json(epoch.loss / epoch.lines) : ordered_json()},
                 {"val_top1", epoch.top1},
                 {"lambda", lambda},
                 {"lr", epoch.lr},
                 {"osc", epoch.oscillation},
                 {"quantizers", epoch.quantizers}});
        }
        return run;
    }

  private:
    bool regularized_ = false;
    double epochs_in_all_ = 0;
    std::map<int, Epoch> epochs_;
};

/// The run's folder, else the path.
std::string name_of(const std::string& path) {
    const std::string folder = std::filesystem::path(path).parent_path().filename().string();
    return folder.empty() || folder == "." ? path : folder;
}

}  // namespace

ordered_json training_runs(const std::vector<std::string>& paths) {
    ordered_json runs = ordered_json::array();
    for (const std::string& path : paths) {
        const data::Bytes bytes = data::read_file(path, "give --metrics the metrics.jsonl files of runs");
        std::istringstream text(std::string(bytes.begin(), bytes.end()));
        Run run;
        int64_t number = 0;
        for (std::string line; std::getline(text, line);) {
            ++number;
            if (line.empty()) continue;
            try {
                run.add(ordered_json::parse(line));
            } catch (const std::exception&) {  // of JSON, or of a number
                engine::input_error("--metrics: '", data::printable(path), "', line ", number,
                                    " is none of a metrics.jsonl; name the file of a run");
            }
        }
        runs.push_back(run.json(name_of(path)));
    }
    return {{"runs", runs}};
}

}  // namespace vvtq::apps
