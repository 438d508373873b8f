// elements: numbers as checkpoints and label files store them, by safetensors' names of their types: "F64",
// "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL".
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace vvtq::data {

/// How a stored number becomes a float or a double; `at` need not be aligned. Exact where the number has room
/// in it: not always F64 and integers of 32 and 64 bits into float, and integers of 64 bits into double.
struct Element {
    size_t size;  ///< bytes
    float (*to_float)(const uint8_t* at);
    double (*to_double)(const uint8_t* at);
};

/// Null where the type is unknown.
const Element* find_element(const std::string& dtype);

/// Bytes of an element; 0 where the type is unknown.
size_t element_size(const std::string& dtype);

/// The nearest F16, ties to even; infinity from 65520 on.
uint16_t half_bits(float value);

/// "(3, 8)", of any rank.
std::string shape_text(const std::vector<int64_t>& shape);

template <typename To>
To read_element(const Element& element, const uint8_t* at) {
    if constexpr (sizeof(To) == sizeof(double)) {
        return element.to_double(at);
    } else {
        return element.to_float(at);
    }
}

}  // namespace vvtq::data
