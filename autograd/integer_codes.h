// integer_codes: forward passes on 8-bit codes, for inference on the CPU.
#pragma once

#include "autograd/ops.h"

namespace vvtq::autograd {

/// While one lives on this thread, ops that are not recorded make codes of i8 or u8 where they can, and
/// products of codes are integer. Where they cannot (other devices and dtypes than the CPU's f32, quantizers
/// with several steps or wide ranges), they work as without it.
class IntegerCodes {
  public:
    IntegerCodes();
    ~IntegerCodes();
    IntegerCodes(const IntegerCodes&) = delete;
    IntegerCodes& operator=(const IntegerCodes&) = delete;

  private:
    bool before_;
};

/// i8 or u8.
inline bool is_integer(engine::DType dtype) {
    return dtype == engine::DType::i8 || dtype == engine::DType::u8;
}
inline bool is_integer(const Tensor& codes) { return is_integer(codes.dtype()); }

/// The dtype of the codes that `quantizer` makes of values of `dtype`: under IntegerCodes i8, of a range
/// without negative codes u8; else `dtype`.
engine::DType code_dtype(const engine::QuantParams& quantizer, engine::DType dtype, engine::Device device);

/// i8 codes of a weight (N, K) as the library's products take them.
Tensor packed_codes(const Tensor& codes);

}  // namespace vvtq::autograd
