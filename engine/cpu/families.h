// families: the CPU's kernels, one file for each family; equations and shapes are in engine/kernels.h.
#pragma once

#include "engine/composed.h"
#include "engine/kernels.h"

namespace vvtq::engine::cpu {

#define VVTQ_KERNEL(name) SignatureOf<decltype(Kernels::name)>::type name;
#define VVTQ_FUSED_KERNEL(name) using composed::name;
#include "engine/kernel_list.h"

}  // namespace vvtq::engine::cpu
