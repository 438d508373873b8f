#include "apps/options/flag_table.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "apps/options/toml_file.h"
#include "data/bytes.h"

namespace vvtq::apps {
namespace {

constexpr int kAnyNumber = CLI::detail::expected_max_vector_size;  // values of a list

/// A value of a file as the command line would have it; an empty word where it is no text, number or switch.
std::vector<std::string> words_of(const toml::node& node) {
    std::vector<std::string> words;
    const auto add = [&](const toml::node& value) {
        std::string word = value.value_or(std::string());
        if (value.is_integer()) word = value_text(*value.value<int64_t>());
        if (value.is_floating_point()) word = value_text(*value.value<double>());
        if (value.is_boolean()) word = value_text(*value.value<bool>());
        words.push_back(word);
    };
    if (const toml::array* list = node.as_array()) {
        for (const toml::node& value : *list) add(value);
    } else {
        add(node);
    }
    return words;
}

/// CLI11's messages may begin with the flag: "--lr: 'x' is not a number".
std::string without_flag(const std::string& text, const std::string& name) {
    const std::string begin = flag_of(name) + ": ";
    return flag_of(text.substr(0, begin.size())) == flag_of(begin) ? text.substr(begin.size()) : text;
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
            if (flag_of(name) == flag_of(flag.substr(2))) return "--" + name;
        }
    }
    return "";
}

void FlagTable::refuse_unknown(const std::string& where, const std::string& flag) const {
    std::string nearest;
    size_t fewest = 1 + flag.size() / 3;
    for (const CLI::Option* option : app_.get_options()) {
        for (const std::string& name : option->get_lnames()) {
            const size_t count = edits(flag_of(flag.substr(2)), flag_of(name));
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
    std::map<std::string, std::vector<std::string>> lists;  // CLI11 would join a list that is given twice
    std::vector<std::string>* values = nullptr;             // of the list that is being read
    for (const std::string& word : words) {
        if (word == "--") return words;  // CLI11 says what it thinks of it
        const size_t end = std::min(word.find('='), word.size());
        if (word.starts_with("--")) {
            const std::string flag = own_spelling(word.substr(0, end));
            if (flag.empty()) refuse_unknown("", word.substr(0, end));
            if (end + 1 == word.size()) {
                engine::input_error(flag, ": has no value; give one or leave the flag out");
            }
            const bool list = app_.get_option(flag)->get_items_expected_max() >= kAnyNumber;
            values = list ? &lists[flag] : nullptr;
            if (values != nullptr) values->clear();
            (values != nullptr ? *values : result).push_back(flag + word.substr(end));
        } else {
            if (word.size() > 1 && word[0] == '-' && std::isalpha(static_cast<unsigned char>(word[1])) != 0) {
                values = nullptr;  // a short flag
            }
            (values != nullptr ? *values : result).push_back(word);
        }
    }
    for (const auto& [flag, all] : lists) result.insert(result.end(), all.begin(), all.end());
    return result;
}

void FlagTable::add_config() {
    app_.add_option("--config", config_, "file of flags, one `name = value` a line; the command line wins")
        ->check([](const std::string& text) {
            return std::string(text.empty() ? "has no value; name a file or leave the flag out" : "");
        })
        ->group(group_);
}

void FlagTable::read_config() {
    if (config_.empty()) return;
    const TomlFile file("--config", config_, "flag = value");
    std::set<const CLI::Option*> seen;  // a flag may have two names
    for (const TomlFile::Entry& entry : file.entries()) {
        const std::string &name = entry.name, &where = entry.where;
        const toml::node& value = *entry.value;
        const std::string flag = own_spelling("--" + name);
        if (flag.empty() || flag == "--config" || flag == "--help") refuse_unknown(where, "--" + name);
        CLI::Option* option = app_.get_option(flag);
        if (!seen.insert(option).second) {
            engine::input_error(where, flag, " stands there twice; leave one out");
        }
        std::vector<std::string> words = words_of(value);
        if (words.empty() || std::count(words.begin(), words.end(), "") > 0) {
            engine::input_error(where, name, " has no value; give it a text, a number, true or false");
        }
        const bool is_switch = option->get_items_expected_max() == 0;
        const auto given = static_cast<int>(words.size()), fewest = option->get_items_expected_min();
        if (is_switch ? given != 1 || value.is_array()
                      : given < fewest || given > option->get_items_expected_max()) {
            engine::input_error(where, name, " has ", given, given == 1 ? " value" : " values", ", not ",
                                is_switch ? 1 : fewest);
        }
        if (!option->empty()) continue;
        in_file_[option] = where;
        try {
            if (is_switch) words = {option->get_flag_value(flag.substr(2), words[0])};
            option->add_result(words);
            option->run_callback();
        } catch (const CLI::Error& error) {
            engine::input_error(where, name, ": ", data::printable(without_flag(error.what(), name)));
        }
    }
}

void FlagTable::finish() {
    read_config();
    refuse_unsupported();
    for (size_t i = 0; i < added_.size(); ++i) {
        options_.flags[i].given = !added_[i]->empty();
        const auto place = in_file_.find(added_[i]);
        if (place != in_file_.end()) options_.flags[i].place = place->second;
    }
}

}  // namespace vvtq::apps
