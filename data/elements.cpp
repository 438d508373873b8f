#include "data/elements.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

namespace vvtq::data {
namespace {

struct Half {
    uint16_t bits;
    operator float() const {
        const uint32_t sign = uint32_t{bits & 0x8000U} << 16, fraction = bits & 0x3FF;
        const uint32_t exponent = (bits >> 10) & 0x1F;
        if (exponent == 0) return (sign != 0 ? -0x1p-24F : 0x1p-24F) * static_cast<float>(fraction);
        return std::bit_cast<float>(sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13);
    }
};

struct Bfloat16 {
    uint16_t bits;
    operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
};

/// Eight bits: sign, exponent, fraction. Of E4M3 only all ones is NaN; E5M2 has infinities as IEEE has.
template <int kFraction, int kBias, bool kInfinities>
struct Float8 {
    uint8_t bits;
    operator float() const {
        const int low = bits & 0x7F, exponent = low >> kFraction, fraction = low & ((1 << kFraction) - 1);
        const float sign = bits >= 0x80 ? -1.0F : 1.0F;
        constexpr int kLargest = (1 << (7 - kFraction)) - 1;
        if (kInfinities && exponent == kLargest) {
            return fraction == 0 ? sign * std::numeric_limits<float>::infinity()
                                 : std::numeric_limits<float>::quiet_NaN();
        }
        if (!kInfinities && low == 0x7F) return std::numeric_limits<float>::quiet_NaN();
        const int digits = exponent == 0 ? fraction : fraction + (1 << kFraction);
        return sign * std::ldexp(static_cast<float>(digits), std::max(exponent, 1) - kBias - kFraction);
    }
};
using Float8E4M3 = Float8<3, 7, false>;
using Float8E5M2 = Float8<2, 15, true>;

struct Truth {
    uint8_t byte;
    operator float() const { return byte != 0 ? 1.0F : 0.0F; }
};

template <typename Stored, typename To>
To read(const uint8_t* at) {
    Stored stored;
    std::memcpy(&stored, at, sizeof stored);
    return static_cast<To>(stored);
}

template <typename Stored>
constexpr Element kElement = {sizeof(Stored), read<Stored, float>, read<Stored, double>};

const std::map<std::string, Element> kElements = {
    {"F64", kElement<double>},    {"F32", kElement<float>},          {"F16", kElement<Half>},
    {"BF16", kElement<Bfloat16>}, {"F8_E4M3", kElement<Float8E4M3>}, {"F8_E5M2", kElement<Float8E5M2>},
    {"I64", kElement<int64_t>},   {"I32", kElement<int32_t>},        {"I16", kElement<int16_t>},
    {"I8", kElement<int8_t>},     {"U64", kElement<uint64_t>},       {"U32", kElement<uint32_t>},
    {"U16", kElement<uint16_t>},  {"U8", kElement<uint8_t>},         {"BOOL", kElement<Truth>}};

}  // namespace

const Element* find_element(const std::string& dtype) {
    const auto found = kElements.find(dtype);
    return found == kElements.end() ? nullptr : &found->second;
}

size_t element_size(const std::string& dtype) {
    const Element* element = find_element(dtype);
    return element != nullptr ? element->size : 0;
}

uint16_t half_bits(float value) {
    const auto sign = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16 & 0x8000U);
    const float size = std::fabs(value);
    if (std::isnan(value)) return sign | 0x7E00U;
    if (size >= 65520) return sign | 0x7C00U;
    if (size < 0x1p-14F) return static_cast<uint16_t>(sign | std::lrint(size * 0x1p24F));  // subnormal
    const auto bits = std::bit_cast<uint32_t>(size) - (112U << 23);  // the exponent as F16 counts it
    const uint32_t kept = bits >> 13, rest = bits & 0x1FFFU;
    const bool up = rest > 0x1000U || (rest == 0x1000U && (kept & 1U) != 0);
    return static_cast<uint16_t>(sign | (kept + (up ? 1 : 0)));  // a carry goes into the exponent
}

std::string shape_text(const std::vector<int64_t>& shape) {
    std::string text = "(";
    for (const int64_t dim : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(dim);
    return text + ")";
}

}  // namespace vvtq::data
