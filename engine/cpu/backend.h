// engine/cpu/: the kernel table of the CPU, one file per family of kernels. OpenBLAS multiplies, OpenMP
// spreads chunks whose bounds depend on shapes alone over threads, the compiler vectorizes the loops within a
// chunk.
//
// backend: what the rest of the engine sees of this folder.
#pragma once

#include <string>

#include "engine/kernels.h"

namespace vvtq::engine::cpu {

const Kernels& kernels();
Pool& pool();
/// The OPENBLAS_CORETYPE that fits this processor better than what OpenBLAS chose; empty where it chose well.
std::string better_blas_kernels();

}  // namespace vvtq::engine::cpu
