// linear_scale: what turns a product of codes into a layer's output.
#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"

namespace vvtq::engine::cpu {
namespace {

template <typename T>
T value_or(Arg t, double otherwise) {
    return t.defined() ? *t.data<T>() : static_cast<T>(otherwise);
}

template <typename S, typename W>
S sum_of(const W* w, int64_t n) {
    S sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < n; ++k) sum += w[k];
    return sum;
}

}  // namespace

void linear_scale(Arg x_scale, Arg x_offset, Arg w, Arg w_scale, Arg bias, Arg scale, Arg shifted) {
    const int64_t outputs = w.shape().rows(), inputs = w.shape().cols();
    const DType dtype = shifted.dtype();
    check_size(scale, 1, dtype);
    check_size(shifted, outputs, dtype);
    if (bias.defined()) check_size(bias, outputs, dtype);
    with_floating(dtype, [&]<typename T>() {
        const T a_w = value_or<T>(w_scale, 1.0), o = value_or<T>(x_offset, 0.0);
        *scale.data<T>() = value_or<T>(x_scale, 1.0) * a_w;
        for (int64_t n = 0; n < outputs; ++n) {
            T sum = 0;
            if (x_offset.defined()) {
                sum = w.dtype() == DType::i8
                          ? static_cast<T>(sum_of<int32_t>(w.data<int8_t>() + n * inputs, inputs))
                          : sum_of<T>(w.data<T>() + n * inputs, inputs);
            }
            shifted.data<T>()[n] = (bias.defined() ? bias.data<T>()[n] : T{0}) + o * a_w * sum;
        }
    });
}

}  // namespace vvtq::engine::cpu
