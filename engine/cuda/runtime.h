// runtime: the device, its streams, and how kernels are launched.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "engine/kernel_checks.h"

namespace vvtq::engine::cuda {

/// Throws Error(Fault::run) naming the call where `status` is an error.
void check_status(cudaError_t status, const char* call);

#define VVTQ_CUDA(call) ::vvtq::engine::cuda::check_status((call), #call)

/// The GPU this process works on, made ready on first use. Throws Error(Fault::input) in one line where it
/// cannot be.
struct Gpu {
    int index;
    int multiprocessors;
    size_t shared_memory;  // bytes a block may ask for
    cudaStream_t stream;   // of all kernels
};
const Gpu& gpu();
/// Whether this build has code for the device that is set (all kernels are compiled for the same ones).
cudaError_t has_kernels();

struct EventHandle {
    cudaEvent_t event = nullptr;
    explicit EventHandle(unsigned flags) { VVTQ_CUDA(cudaEventCreateWithFlags(&event, flags)); }
    ~EventHandle() { cudaEventDestroy(event); }
    EventHandle(const EventHandle&) = delete;
    EventHandle& operator=(const EventHandle&) = delete;
};

#ifdef __CUDACC__
/// Launches on the stream and checks the launch. Arguments are converted to the kernel's parameter types.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, Arguments&&... arguments) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;  // nothing to do
    kernel<<<grid, block, shared, gpu().stream>>>(static_cast<Parameters>(arguments)...);
    VVTQ_CUDA(cudaGetLastError());
}
#endif

template <typename T>
struct ElementOf {
    static constexpr DType dtype = dtype_of<T>::value;
};
template <>
struct ElementOf<__nv_bfloat16> {
    static constexpr DType dtype = DType::bf16;
};

/// Typed pointer to a tensor on this device; null where it is undefined. Throws where T is not its dtype.
template <typename T>
T* pointer(const Tensor& t) {
    if (!t.defined()) return nullptr;
    VVTQ_CHECK(t.device() == Device::cuda && t.dtype() == ElementOf<T>::dtype, "tensor ", t.shape().str(),
               " holds ", name_of(t.dtype()), " on ", name_of(t.device()));
    return static_cast<T*>(t.raw());
}

/// Calls f.operator()<T>() with the C++ type of an activation dtype of CUDA.
template <typename F>
void with_activation(DType dtype, F&& f) {
    switch (dtype) {
        case DType::f32:
            f.template operator()<float>();
            return;
        case DType::bf16:
            f.template operator()<__nv_bfloat16>();
            return;
        case DType::f64:
            internal_error("f64 is not computed with on CUDA; use the CPU");
        default:
            internal_error("dtype ", name_of(dtype), " is not computed with on CUDA");
    }
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace vvtq::engine::cuda
