#include "apps/options/bits_file.h"

#include <algorithm>
#include <cctype>
#include <sstream>

#include "apps/options/toml_file.h"
#include "apps/training/value_text.h"
#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace {

bool is_width(int64_t bits) { return (bits >= 1 && bits <= 8) || bits == 32; }

/// A pattern is one word without "=", so that it can stand in a text of them.
bool is_pattern(const std::string& name) {
    return !name.empty() && name.find('=') == std::string::npos &&
           std::none_of(name.begin(), name.end(), [](unsigned char c) { return std::isspace(c) != 0; });
}

/// A line of the file: a pattern and its width.
struct Line {
    std::string name;
    const toml::node* value;
};

/// `a.b = 3` without quotes is a table within a table.
void add_lines(const std::string& name, const toml::node& value, std::vector<Line>& lines) {
    const toml::table* table = value.as_table();
    if (table == nullptr) return lines.push_back({name, &value});
    for (const auto& [key, inner] : *table) add_lines(name + "." + std::string(key.str()), inner, lines);
}

void add_entry(const Line& line, const std::string& where, std::string& text) {
    const auto& [name, value] = line;
    const auto bits = value->is_integer() ? *value->value<int64_t>() : 0;
    if (!is_width(bits)) {
        engine::input_error(where, data::printable(name), ": give 1 to 8 bits, or 32 for float");
    }
    if (!is_pattern(name)) {
        engine::input_error(where, "'", data::printable(name), "' is no name of a quantizer; `vvtq inspect` ",
                            "tells them");
    }
    text += (text.empty() ? "" : " ") + name + "=" + std::to_string(bits);
}

}  // namespace

std::string read_bits_file(const std::string& path) {
    const TomlFile file("--bits", path, "\"name\" = bits");
    std::vector<Line> lines;  // in the order of the file, in which the last match counts
    for (const TomlFile::Entry& entry : file.entries()) add_lines(entry.name, *entry.value, lines);
    std::stable_sort(lines.begin(), lines.end(), [](const Line& a, const Line& b) {
        return a.value->source().begin.line < b.value->source().begin.line;
    });
    std::string text;
    for (const Line& line : lines) {
        const auto number = line.value->source().begin.line;
        add_entry(line, engine::concat("--bits: ", path, ", line ", number, ": "), text);
    }
    if (text.empty()) engine::input_error("--bits: ", path, " has no widths; leave the flag out");
    return text;
}

std::vector<std::pair<std::string, int>> parse_bits(const std::string& text) {
    std::vector<std::pair<std::string, int>> pairs;
    std::istringstream words(text);
    for (std::string word; words >> word;) {
        const size_t middle = word.find('=');
        int bits = 0;
        if (middle == std::string::npos || middle == 0 || !parse_text(word.substr(middle + 1), bits) ||
            !is_width(bits)) {
            engine::input_error("`bits`: '", data::printable(word), "' is no name with a width");
        }
        pairs.emplace_back(word.substr(0, middle), bits);
    }
    return pairs;
}

}  // namespace vvtq::apps
