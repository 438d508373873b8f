// flag_table: one command's flags while they are being parsed, over CLI11.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "apps/options/flag_value.h"
#include "apps/options/options.h"
#include "apps/training/value_text.h"
#include "engine/check.h"

namespace vvtq::apps {

/// Adds flags to a CLI11 subcommand and keeps what Options needs of them. Flags added after `group` stand
/// under that heading in --help.
class FlagTable {
  public:
    FlagTable(CLI::App& app, Options& options) : app_(app), options_(options) {}

    void group(const std::string& title) { group_ = title; }

    /// A flag with a value; `recipe` as in Flag.
    template <typename T>
    CLI::Option* add(const std::string& names, T& target, const std::string& help, bool recipe = false) {
        const std::string rest = names.substr(names.find("--"));
        const auto read = [&target, flag = rest.substr(0, rest.find(','))](const CLI::results_t& words) {
            const std::string problem = read_words(words, target);
            if (!problem.empty()) throw CLI::ValidationError(flag, problem);
            return true;
        };
        const auto shown = [&target] { return CLI::detail::checked_to_string<T, T>(target); };
        CLI::Option* option = app_.add_option(names, read, help, false, shown);
        option->type_name(CLI::detail::type_name<T>());
        if constexpr (is_list<T>) option->expected(CLI::detail::expected_max_vector_size);
        option->capture_default_str();
        return keep(option, target, recipe);
    }
    /// A flag with two values.
    CLI::Option* add_pair(const std::string& names, std::vector<double>& target, const std::string& help) {
        return add(names, target, help, true)->expected(2)->allow_extra_args(false);
    }
    /// A switch.
    CLI::Option* add_switch(const std::string& names, bool& target, const std::string& help,
                            bool recipe = false) {
        CLI::Option* option = app_.add_flag(names, target, help);
        option->check([](const std::string& text) {
            return std::string(text == "true" || text == "false" ? ""
                                                                 : "'" + text + "' is not true or false");
        });
        return keep(option, target, recipe);
    }
    /// --config: a TOML file of flags, `name = value` a line.
    void add_config();
    /// Published flags that are accepted by name, and the reason why they cannot be honoured
    /// (unsupported_flags.cpp).
    void add_unsupported();

    /// The command line with every flag in its own spelling: `_` and `-` are alike. Of a
    /// list that is given twice the last counts. Throws Error(Fault::input) for an unknown flag, naming the
    /// nearest.
    std::vector<std::string> in_own_spelling(const std::vector<std::string>& words) const;

    /// After parsing: reads --config, refuses what cannot be honoured, and fills options.flags.
    void finish();

  private:
    template <typename T>
    CLI::Option* keep(CLI::Option* option, T& target, bool recipe) {
        option->group(group_)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
        added_.push_back(option);
        options_.flags.push_back({"--" + option->get_lnames().front(), false, "", recipe,
                                  [&target] { return value_text(target); },
                                  [&target](const std::string& text) { return parse_text(text, target); }});
        return option;
    }
    /// "--batch-size" of "--batch_size"; empty where the command has no such flag.
    std::string own_spelling(const std::string& flag) const;
    [[noreturn]] void refuse_unknown(const std::string& where, const std::string& flag) const;
    void read_config();
    void refuse_unsupported() const;

    CLI::App& app_;
    Options& options_;
    std::string group_ = "Options";
    std::string config_;
    std::vector<CLI::Option*> added_;                    // option of options_.flags[i]
    std::map<const CLI::Option*, std::string> in_file_;  // where --config gave it
};

}  // namespace vvtq::apps
