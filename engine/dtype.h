// dtype: the element types a tensor can hold.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vvtq::engine {

enum class DType { f32, f64, bf16, i8, u8, i32, i64 };

/// Bytes of one element.
size_t size_of(DType dtype);
/// "f32", "f64", ...
const char* name_of(DType dtype);
/// f32, f64, bf16.
bool is_floating(DType dtype);
/// The dtype of parameters beside activations of `dtype`: f64 for f64, else f32.
DType master_of(DType dtype);

template <typename T>
struct dtype_of;  // dtype_of<float>::value == DType::f32
template <>
struct dtype_of<float> {
    static constexpr DType value = DType::f32;
};
template <>
struct dtype_of<double> {
    static constexpr DType value = DType::f64;
};
template <>
struct dtype_of<int8_t> {
    static constexpr DType value = DType::i8;
};
template <>
struct dtype_of<uint8_t> {
    static constexpr DType value = DType::u8;
};
template <>
struct dtype_of<int32_t> {
    static constexpr DType value = DType::i32;
};
template <>
struct dtype_of<int64_t> {
    static constexpr DType value = DType::i64;
};

}  // namespace vvtq::engine
