#include "apps/options/flag_table.h"

#include <algorithm>
#include <sstream>

#include "data/bytes.h"

namespace vvtq::apps {
namespace {

/// Refuses what CLI11 would take for a section, skip, or swallow: a flag must not be lost in silence.
void check_config_lines(const std::string& text, const std::string& path) {
    const auto refuse = [&](const std::string& line, const char* reason) {
        engine::input_error("--config: ", path, ": '", data::printable(line), "' ", reason,
                            "; write one `flag = value` a line");
    };
    constexpr size_t kShortest = 3;  // CLI11 skips shorter lines
    bool in_list = false;
    std::string list;  // the line that an open list begins with
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) {
        CLI::detail::trim(line);
        if (line.empty() || (!in_list && (line[0] == '#' || line[0] == ';'))) continue;
        if (in_list) {
            in_list = line.back() != ']';
            continue;
        }
        if (line[0] == '[') refuse(line, "begins a section, and there are none here");
        if (line.size() < kShortest) refuse(line, "is no flag");
        const std::string entry = CLI::detail::trim_copy(line.substr(0, line.find('#')));
        const size_t equals = entry.find('=');
        const std::string value =
            equals == std::string::npos ? "" : CLI::detail::trim_copy(entry.substr(equals + 1));
        in_list = value.size() > 1 && value.front() == '[' && value.back() != ']';
        list = line;
    }
    if (in_list) refuse(list, "begins a list that does not end");
}

}  // namespace

void FlagTable::add_config() {
    app_.add_option("--config", config_, "file of flags, one `name = value` a line; the command line wins")
        ->group(group_);
}

std::vector<CLI::ConfigItem> FlagTable::config_items() const {
    const data::Bytes bytes = data::read_file(config_, "give --config a file of `flag = value` lines");
    const std::string text(bytes.begin(), bytes.end());
    check_config_lines(text, config_);
    std::istringstream in(text);
    try {
        return CLI::ConfigTOML().from_config(in);
    } catch (const CLI::Error& error) {
        engine::input_error("--config: cannot read ", config_, "; name a file of `flag = value` lines");
    }
}

void FlagTable::read_config() {
    if (config_.empty()) return;
    for (const CLI::ConfigItem& item : config_items()) {
        CLI::Option* option = item.parents.empty() ? app_.get_option_no_throw("--" + item.name) : nullptr;
        if (option == nullptr || item.name == "config" || item.name == "help") {
            engine::input_error("--config: ", config_, " has the unknown flag ",
                                data::printable(item.fullname()), "; `vvtq ", app_.get_name(),
                                " --help` lists the flags");
        }
        const bool has_value =
            !item.inputs.empty() && std::none_of(item.inputs.begin(), item.inputs.end(),
                                                 [](const std::string& text) { return text.empty(); });
        if (!has_value) {
            engine::input_error("--config: ", config_, ": ", item.name,
                                " has no value; give it one or leave the line out");
        }
        if (!option->empty()) continue;
        try {
            option->add_result(item.inputs);
            option->run_callback();
        } catch (const CLI::Error& error) {
            engine::input_error("--config: ", config_, ": ", item.name, ": ", error.what());
        }
    }
}

void FlagTable::finish() {
    read_config();
    refuse_unsupported();
    for (size_t i = 0; i < added_.size(); ++i) options_.flags[i].given = !added_[i]->empty();
}

}  // namespace vvtq::apps
