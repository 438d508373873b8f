// families: CUDA's kernels, one file for each family; equations and shapes are in engine/kernels.h.
#pragma once

#include "engine/composed.h"
#include "engine/kernels.h"

namespace vvtq::engine::cuda {

#define VVTQ_KERNEL(name) SignatureOf<decltype(Kernels::name)>::type name;
#define VVTQ_FUSED_KERNEL(name) VVTQ_KERNEL(name)
#include "engine/kernel_list.h"
#undef VVTQ_KERNEL
#undef VVTQ_FUSED_KERNEL

}  // namespace vvtq::engine::cuda
