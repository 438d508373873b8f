// engine/cpu/: the kernel table of the CPU, one file per family of kernels. OpenBLAS multiplies, OpenMP
// spreads chunks whose bounds depend on shapes alone over threads, the compiler vectorizes the loops within a
// chunk.
//
// backend: what the rest of the engine sees of this folder.
#pragma once

#include "engine/communicator.h"
#include "engine/device.h"
#include "engine/kernels.h"

namespace vvtq::engine::cpu {

const Kernels& kernels();
Pool& pool();
Runtime& runtime();
/// By Gloo; defined where the build has it.
std::unique_ptr<Communicator> communicator(const CommunicatorOptions& options);

/// Bytes that this process can still take without pushing others out of memory: of the machine, or of its
/// control group where that has a limit.
size_t available_memory();

}  // namespace vvtq::engine::cpu
