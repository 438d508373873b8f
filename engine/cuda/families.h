// families: CUDA's kernels, one file for each family; equations and shapes are in engine/kernels.h.
#pragma once

#include "engine/composed.h"
#include "engine/kernels.h"

namespace vvtq::engine::cuda {

#define VVTQ_KERNEL(name) SignatureOf<decltype(Kernels::name)>::type name;
#include "engine/kernel_list.h"

}  // namespace vvtq::engine::cuda
