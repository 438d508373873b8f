// hex: bytes as text and back, for what processes tell each other by ExchangeText.
#pragma once

#include <string>
#include <string_view>

#include "engine/check.h"

namespace vvtq::engine {

inline std::string to_hex(std::string_view bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (const char byte : bytes) {
        const auto value = static_cast<unsigned char>(byte);
        text += kDigits[value / 16];
        text += kDigits[value % 16];
    }
    return text;
}

/// Throws Error(Fault::run) where the text is not what `to_hex` makes.
inline std::string from_hex(std::string_view text) {
    const auto digit = [&](size_t i) {
        const size_t at = std::string_view("0123456789abcdef").find(text[i]);
        if (at == std::string_view::npos)
            run_error("another process sent `", text, "`, which is not hexadecimal");
        return at;
    };
    if (text.size() % 2 != 0) run_error("another process sent half a byte");
    std::string bytes;
    for (size_t i = 0; i < text.size(); i += 2) bytes += static_cast<char>(16 * digit(i) + digit(i + 1));
    return bytes;
}

}  // namespace vvtq::engine
