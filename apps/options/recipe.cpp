// What decides a training: its flags as a checkpoint keeps them.
#include <algorithm>

#include "apps/options/options.h"
#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace {

/// Flags that checkpoints of the first versions (0.1) may lack, with what was done then. A flag of the recipe
/// that is added from now on gets a line here.
const std::map<std::string, std::string> kAddedLater = {
    {"on-bad-image", "error"},
    {"head-wise", "false"},
    {"train-interpolation", "bilinear"},
    {"aa", "none"},
    {"color-jitter", "0"},
    {"reprob", "0"},
    {"remode", "pixel"},
    {"recount", "1"},
    {"mixup", "0"},
    {"cutmix", "0"},
    {"cutmix-minmax", ""},
    {"mixup-prob", "1"},
    {"mixup-switch-prob", "0.5"},
    {"mixup-mode", "batch"},
    {"repeated-aug", "false"},
    {"decode", "exact"},
    {"shards", "1"},
    {"bits", ""},
    {"track-osc", "false"},
    {"freeze-osc", "0"},
    {"freeze-osc-end", "0"},
};

}  // namespace

std::map<std::string, std::string> Options::recipe() const {
    std::map<std::string, std::string> values;
    for (const Flag& flag : flags) {
        if (flag.recipe) values[flag.name.substr(2)] = flag.get();
    }
    return values;
}

std::map<std::string, std::string> checked_recipe(const std::map<std::string, std::string>& saved,
                                                  const std::string& command, const std::string& checkpoint) {
    const auto refuse = [&](const auto&... what) {
        engine::input_error(checkpoint, ": its metadata ", what...,
                            ": it is damaged or of another version; name another file");
    };
    if (command != "train" && command != "pretrain") {
        refuse("names a command '", data::printable(command), "'");
    }
    const auto known = parse_options({command})->recipe();
    for (const auto& [name, value] : saved) {
        if (known.count(name) == 0) refuse("names a flag --", data::printable(name), " that is not known");
    }
    std::map<std::string, std::string> whole = saved;
    for (const auto& [name, value] : known) {
        if (saved.count(name) != 0) continue;
        const auto then = kAddedLater.find(name);
        if (then == kAddedLater.end()) refuse("does not say --", name);
        whole[name] = then->second;
    }
    return whole;
}

void Options::adopt_recipe(const std::map<std::string, std::string>& saved, const std::string& checkpoint,
                           const std::vector<std::string>& names) {
    std::string contradictions;
    for (Flag& flag : flags) {
        const bool wanted = names.empty() || std::find(names.begin(), names.end(), flag.name) != names.end();
        if (!flag.recipe || !wanted) continue;
        const std::string& value = saved.at(flag.name.substr(2));
        if (!flag.given || (flag.name == "--precision" && flag.get() == "auto")) {
            if (!flag.set(value)) {
                engine::input_error(checkpoint, ": value '", data::printable(value), "' of ", flag.name,
                                    " in its metadata is damaged; name another file");
            }
        } else if (flag.get() != value) {
            contradictions += (contradictions.empty() ? "" : ", ") + flag.name + " " + flag.get() +
                              " (there " + data::printable(value) + ")";
        }
    }
    check_ranges(*this);
    if (!contradictions.empty()) {
        engine::input_error("--resume: ", checkpoint, " was trained with other flags: ", contradictions,
                            "; leave these flags out or start afresh");
    }
    check_effects(*this);
}

}  // namespace vvtq::apps
