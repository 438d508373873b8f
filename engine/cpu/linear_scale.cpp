// linear_scale: what turns a product of codes into a layer's output.
#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"

namespace vvtq::engine::cpu {
namespace {

template <typename T>
T value_or(Arg t, double otherwise) {
    return t.defined() ? *t.data<T>() : static_cast<T>(otherwise);
}

}  // namespace

void linear_scale(const LsqStep& x, Arg w, Arg w_alpha, Arg bias, Arg scale, Arg shifted) {
    const int64_t outputs = w.shape().rows(), inputs = w.shape().cols();
    check_size(scale, 1, w.dtype());
    check_size(shifted, outputs, w.dtype());
    if (bias.defined()) check_size(bias, outputs, w.dtype());
    with_floating(w.dtype(), [&]<typename T>() {
        const T a_w = value_or<T>(w_alpha, 1.0), o = value_or<T>(x.beta, 0.0);
        *scale.data<T>() = value_or<T>(x.alpha, 1.0) * a_w;
        const T* pw = w.data<T>();
        for (int64_t n = 0; n < outputs; ++n) {
            T sum = 0;
            if (x.beta.defined()) {
#pragma omp simd reduction(+ : sum)
                for (int64_t k = 0; k < inputs; ++k) sum += pw[n * inputs + k];
            }
            shifted.data<T>()[n] = (bias.defined() ? bias.data<T>()[n] : T{0}) + o * a_w * sum;
        }
    });
}

}  // namespace vvtq::engine::cpu
