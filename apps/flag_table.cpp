#include "apps/flag_table.h"

namespace vvtq::apps {

void FlagTable::add_config() {
    app_.add_option("--config", config_, "file of flags, one `name = value` a line; the command line wins")
        ->group(group_);
}

void FlagTable::read_config() {
    if (config_.empty()) {
        return;
    }
    std::vector<CLI::ConfigItem> items;
    try {
        items = CLI::ConfigTOML().from_file(config_);
    } catch (const CLI::Error& error) {
        engine::input_error("--config: cannot read ", config_, "; name a file of `flag = value` lines");
    }
    for (const CLI::ConfigItem& item : items) {
        if (item.name == "++" || item.name == "--") {
            continue;  // begin and end of a section
        }
        CLI::Option* option = app_.get_option_no_throw("--" + item.name);
        if (option == nullptr || item.name == "config" || item.name == "help") {
            engine::input_error("--config: ", config_, " has the unknown flag ", item.name, "; `vvtq ",
                                app_.get_name(), " --help` lists the flags");
        }
        if (!option->empty()) {
            continue;
        }
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
    refuse_unhonoured();
    for (size_t i = 0; i < added_.size(); ++i) {
        options_.flags[i].given = !added_[i]->empty();
    }
}

}  // namespace vvtq::apps
