// value_text: values as text and back, for checkpoints, flags and messages.
#pragma once

#include <charconv>
#include <cstdint>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

namespace vvtq::apps {

/// The shortest text that reads back to the same value.
template <typename T>
requires std::is_arithmetic_v<T> std::string value_text(T value) {
    if constexpr (std::is_same_v<T, bool>) {
        return value ? "true" : "false";
    } else {
        char text[40];
        return {text, std::to_chars(text, text + sizeof text, value).ptr};
    }
}
inline std::string value_text(const std::string& value) { return value; }
template <typename T>
std::string value_text(const std::vector<T>& values) {
    std::string text;
    for (const T& value : values) text += (text.empty() ? "" : " ") + value_text(value);
    return text;
}

/// The inverse; false where the text is not such a value.
template <typename T>
requires std::is_arithmetic_v<T>
bool parse_text(const std::string& text, T& value) {
    if constexpr (std::is_same_v<T, bool>) {
        value = text == "true";
        return value || text == "false";
    } else {
        const char* end = text.data() + text.size();
        const auto result = std::from_chars(text.data(), end, value);
        return result.ec == std::errc() && result.ptr == end;
    }
}
inline bool parse_text(const std::string& text, std::string& value) {
    value = text;
    return true;
}
template <typename T>
bool parse_text(const std::string& text, std::vector<T>& values) {
    std::istringstream in(text);
    values.clear();
    for (std::string word; in >> word;) {
        values.push_back(0);
        if (!parse_text(word, values.back())) return false;
    }
    return true;
}

}  // namespace vvtq::apps
