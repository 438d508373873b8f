// flag_value: the words behind a flag as its value. Nothing is guessed: a number that does not fit, or text
// behind it, is a problem; "010" is ten.
#pragma once

#include <charconv>
#include <cmath>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "apps/training/value_text.h"
#include "data/bytes.h"

namespace vvtq::apps {

template <typename T>
constexpr bool is_list = false;
template <typename T>
constexpr bool is_list<std::vector<T>> = true;

/// Reads one word. Returns what is wrong with it, empty where nothing is.
inline std::string read_word(const std::string& word, std::string& value) {
    value = word;
    return word.empty() ? "has no value; give one or leave the flag out" : "";
}
template <typename T>
requires std::is_arithmetic_v<T> std::string read_word(const std::string& word, T& value) {
    if (word.empty()) return "has no value; give a number or leave the flag out";
    constexpr bool kWhole = std::is_integral_v<T>;
    const char* begin = word.data() + (word[0] == '+' ? 1 : 0);
    const char* end = word.data() + word.size();
    const auto [stop, error] = std::from_chars(begin, end, value);
    const std::string shown = "'" + data::printable(word) + "' ";
    const bool too_low = std::is_unsigned_v<T> && word[0] == '-';
    if (too_low || (stop == end && error == std::errc::result_out_of_range)) {
        if constexpr (!kWhole) return shown + "does not fit into 64 bits; the largest is about 1.8e308";
        return shown + "is not in " + value_text(std::numeric_limits<T>::min()) + ".." +
               value_text(std::numeric_limits<T>::max());
    }
    if (stop != end || error != std::errc()) {
        return shown + (kWhole ? "is not a whole number" : "is not a number");
    }
    if constexpr (!kWhole) {
        if (!std::isfinite(value)) return shown + "is not a finite number";
    }
    return "";
}

/// Reads all words of a flag; of a single value that was given several times the last counts.
template <typename T>
std::string read_words(const std::vector<std::string>& words, T& value) {
    if constexpr (is_list<T>) {
        T values;
        for (const std::string& word : words) {
            const std::string problem = read_word(word, values.emplace_back());
            if (!problem.empty()) return problem;
        }
        value = values;
        return "";
    } else {
        return read_word(words.empty() ? "" : words.back(), value);
    }
}

}  // namespace vvtq::apps
