// process: what a program that computes does once, at the start of main.
#pragma once

namespace vvtq::engine {

/// Sets what the libraries read from the environment when they are loaded, then starts the program once more in the same
/// process. Does nothing the second time, and leaves alone what the user has set.
///   OPENBLAS_CORETYPE  OpenBLAS 0.3.21 (Debian 12) does not know newer processors and gives them AVX2 kernels where
///                      they have AVX-512: half the speed.
///   GOMP_SPINCOUNT     by default a thread that waits for the others of a parallel loop spins for milliseconds; where
///                      another program wants the processor, a step then takes ten times as long.
void prepare_process(char** argv);

/// Threads of the CPU kernels; 0 for all processors this process may use.
void set_threads(int count);
int threads();

}  // namespace vvtq::engine
