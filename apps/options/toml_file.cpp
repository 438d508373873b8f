#include "apps/options/toml_file.h"

#include <algorithm>
#include <map>
#include <utility>

#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::apps {

TomlFile::TomlFile(const std::string& flag, const std::string& path, const std::string& line) {
    const std::string remedy = "give " + flag + " a file of `" + line + "` lines";
    data::Bytes bytes;
    data::read_file(path, remedy, bytes, [&](std::span<const uint8_t>, uint64_t size) {
        constexpr uint64_t kMost = 1 << 20;
        if (size > kMost) engine::input_error(flag, ": ", path, " is larger than 1 MiB: ", remedy);
    });
    // Each dot of a name nests a table, and toml++ needs stack for each table.
    constexpr std::ptrdiff_t kLongest = 4096;
    for (auto begin = bytes.cbegin(); begin != bytes.cend();) {
        const auto end = std::find(begin, bytes.cend(), '\n');
        if (end - begin > kLongest) {
            engine::input_error(flag, ": ", path, ", line ", 1 + std::count(bytes.cbegin(), begin, '\n'),
                                " is longer than ", kLongest, " bytes: ", remedy);
        }
        begin = end == bytes.cend() ? end : end + 1;
    }
    const auto at = [&](const toml::source_region& place) {
        return engine::concat(flag, ": ", path, ", line ", place.begin.line, ": ");
    };
    try {
        values_ = toml::parse(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    } catch (const toml::parse_error& error) {
        engine::input_error(at(error.source()), data::printable(error.description()), "; write one `", line,
                            "` a line, as in TOML");
    }
    std::map<toml::source_position, Entry> in_order;
    for (const auto& [key, value] : values_) {
        in_order[value.source().begin] = {std::string(key.str()), &value, at(value.source())};
    }
    for (auto& [begin, entry] : in_order) entries_.push_back(std::move(entry));
}

}  // namespace vvtq::apps
