// table: the CPU's kernel table.
#include "engine/cpu/backend.h"
#include "engine/cpu/families.h"

namespace vvtq::engine::cpu {

const Kernels& kernels() {
    static const Kernels table{
#define VVTQ_KERNEL(name) .name = name,
#define VVTQ_FUSED_KERNEL(name) VVTQ_KERNEL(name)
#include "engine/kernel_list.h"
#undef VVTQ_KERNEL
#undef VVTQ_FUSED_KERNEL
        .recompute = false,
        .row_bytes = 1,
    };
    return table;
}

}  // namespace vvtq::engine::cpu
