#include "autograd/integer_codes.h"

#include <utility>

namespace vvtq::autograd {

using engine::DType;

namespace {

thread_local bool integer_codes = false;

}  // namespace

IntegerCodes::IntegerCodes() : before_(std::exchange(integer_codes, true)) {}
IntegerCodes::~IntegerCodes() { integer_codes = before_; }

DType code_dtype(const engine::QuantParams& quantizer, DType dtype, engine::Device device) {
    if (!integer_codes || is_recording() || device != engine::Device::cpu || dtype != DType::f32 ||
        !quantizer.defined() || quantizer.groups() > 1) {
        return dtype;
    }
    const int32_t* range = quantizer.range.data<int32_t>();
    if (range[0] >= 0) return range[1] <= 255 ? DType::u8 : dtype;
    return range[0] >= -128 && range[1] <= 127 ? DType::i8 : dtype;
}

Tensor packed_codes(const Tensor& codes) {
    const engine::Shape& shape = codes.shape();
    const Tensor packed({engine::packed_bytes(shape[0], shape[1])}, DType::i8, codes.device());
    engine::kernels(codes.device()).pack_codes(codes, packed);
    return packed;
}

}  // namespace vvtq::autograd
