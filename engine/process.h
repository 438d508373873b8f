// process: what a program that computes does once, at the start of main.
#pragma once

namespace vvtq::engine {

/// OpenBLAS 0.3.21 (Debian 12) does not know newer processors and gives them AVX2 kernels where they have
/// AVX-512: half the speed. It chooses when it is loaded, so this sets OPENBLAS_CORETYPE and starts the
/// program once more in the same process. Does nothing where the variable is set or the choice is right.
void choose_blas_kernels(char** argv);

/// Threads of the CPU kernels; 0 for all processors this process may use.
void set_threads(int count);
int threads();

}  // namespace vvtq::engine
