// process: what a program that computes does once, at the start of main.
#pragma once

namespace vvtq::engine {

/// Keeps threads from spinning for milliseconds while they wait for the others of a parallel loop: where
/// another program wants the processor, a step would take ten times as long. libgomp reads GOMP_SPINCOUNT
/// when it is loaded, so this sets it and starts the program once more in the same process. Does nothing the
/// second time, or where GOMP_SPINCOUNT or OMP_WAIT_POLICY is set.
void prepare_process(char** argv);

/// Threads of the CPU kernels; 0 for all processors this process may use.
void set_threads(int count);
int threads();

}  // namespace vvtq::engine
