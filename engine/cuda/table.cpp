// table: CUDA's kernel table.
#include "engine/cuda/backend.h"
#include "engine/cuda/families.h"
#include "engine/cuda/runtime.h"

namespace vvtq::engine::cuda {

const Kernels& kernels() {
    gpu();
    static const Kernels table{
#define VVTQ_KERNEL(name) .name = name,
#include "engine/kernel_list.h"
        .recompute = true,
        .row_bytes = 16,
    };
    return table;
}

}  // namespace vvtq::engine::cuda
