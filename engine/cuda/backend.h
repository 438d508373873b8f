// engine/cuda/: the kernel table of NVIDIA GPUs, one file per family of kernels as in engine/cpu/. cuBLASLt
// multiplies. All kernels run on one stream, so memory may be given back to the pool as soon as its last
// kernel is enqueued; a second stream copies batches into blocks of its own (Upload in runtime.cpp), a third
// carries NCCL's operations. The only
// folder that includes a CUDA header.
//
// backend: what the rest of the engine sees of this folder.
#pragma once

#include "engine/communicator.h"
#include "engine/device.h"
#include "engine/kernels.h"

namespace vvtq::engine::cuda {

/// Throws Error(Fault::input) in one line where there is no GPU, its driver is too old, or it is not
/// supported.
const Kernels& kernels();
Pool& pool();
Runtime& runtime();
int gpu_count();
/// By NCCL; defined where the build has it.
std::unique_ptr<Communicator> communicator(const CommunicatorOptions& options);

}  // namespace vvtq::engine::cuda
