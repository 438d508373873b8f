// table: the CPU's kernel table.
#include "engine/cpu/backend.h"
#include "engine/cpu/families.h"

namespace vvtq::engine::cpu {

const Kernels& kernels() {
    static const Kernels table{
#define VVTQ_KERNEL(name) .name = name,
#include "engine/kernel_list.h"
        .recompute = false,
        .row_bytes = 1,
    };
    return table;
}

}  // namespace vvtq::engine::cpu
