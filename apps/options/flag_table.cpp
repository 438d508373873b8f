#include "apps/options/flag_table.h"

#include <algorithm>
#include <numeric>
#include <sstream>
#include <utility>

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

std::string with_dashes(std::string flag) {
    std::replace(flag.begin(), flag.end(), '_', '-');
    return flag;
}

/// Letters to insert, remove or replace to make `b` of `a` (Levenshtein).
size_t edits(const std::string& a, const std::string& b) {
    std::vector<size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), size_t{0});
    for (size_t i = 0; i < a.size(); ++i) {
        size_t diagonal = std::exchange(row[0], i + 1);
        for (size_t j = 0; j < b.size(); ++j) {
            const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
            diagonal = row[j + 1];
            row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
        }
    }
    return row.back();
}

}  // namespace

std::string FlagTable::own_spelling(const std::string& flag) const {
    for (const CLI::Option* option : app_.get_options()) {
        for (const std::string& name : option->get_lnames()) {
            if (with_dashes("--" + name) == with_dashes(flag)) return "--" + name;
        }
    }
    return "";
}

void FlagTable::refuse_unknown(const std::string& where, const std::string& flag) const {
    std::string nearest;
    size_t fewest = 1 + flag.size() / 3;
    for (const CLI::Option* option : app_.get_options()) {
        for (const std::string& name : option->get_lnames()) {
            const size_t count = edits(with_dashes(flag), with_dashes("--" + name));
            if (count > fewest || (count == fewest && !nearest.empty())) continue;
            nearest = "--" + name;
            fewest = count;
        }
    }
    engine::input_error(where, data::printable(flag), ": unknown flag; ",
                        nearest.empty() ? "" : "the nearest is " + nearest + "; ", "`vvtq ", options_.command,
                        " --help` lists the flags");
}

std::vector<std::string> FlagTable::in_own_spelling(const std::vector<std::string>& words) const {
    std::vector<std::string> result;
    for (const std::string& word : words) {
        if (word == "--") return words;  // CLI11 says what it thinks of it
        const size_t end = std::min(word.find('='), word.size());
        if (!word.starts_with("--")) {
            result.push_back(word);
            continue;
        }
        const std::string flag = own_spelling(word.substr(0, end));
        if (flag.empty()) refuse_unknown("", word.substr(0, end));
        result.push_back(flag + word.substr(end));
    }
    return result;
}

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
        const std::string flag = item.parents.empty() ? own_spelling("--" + item.name) : "";
        if (flag.empty() || flag == "--config" || flag == "--help") {
            refuse_unknown("--config: " + config_ + ": ", "--" + item.fullname());
        }
        CLI::Option* option = app_.get_option(flag);
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
