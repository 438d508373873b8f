// toml_file: a file of `name = value` lines, as TOML.
#pragma once

#include <toml++/toml.h>
#include <string>
#include <vector>

namespace vvtq::apps {

/// The top entries of a TOML file in the file's order.
class TomlFile {
  public:
    struct Entry {
        std::string name;
        const toml::node* value;
        std::string where;  // for messages: "--config: FILE, line 3: "
    };
    /// `flag` named the file; `line` is what a line is, such as "flag = value". Throws Error(Fault::input)
    /// where it cannot be read, is larger than 1 MiB, or is not TOML.
    TomlFile(const std::string& flag, const std::string& path, const std::string& line);
    TomlFile(const TomlFile&) = delete;
    TomlFile& operator=(const TomlFile&) = delete;

    const std::vector<Entry>& entries() const { return entries_; }

  private:
    toml::table values_;
    std::vector<Entry> entries_;
};

}  // namespace vvtq::apps
