#include "engine/process.h"

#include <cstdlib>
#include <string>

#include <omp.h>
#include <unistd.h>

#include "engine/check.h"
#include "engine/cpu/backend.h"

namespace vvtq::engine {

void choose_blas_kernels(char** argv) {
    if (std::getenv("OPENBLAS_CORETYPE") != nullptr) return;
    const std::string better = cpu::better_blas_kernels();
    if (better.empty()) return;
    setenv("OPENBLAS_CORETYPE", better.c_str(), 1);
    execv("/proc/self/exe", argv);  // returns only where it failed; the slower kernels are right as well
}

void set_threads(int count) {
    VVTQ_CHECK(count >= 0, "threads ", count);
    omp_set_num_threads(count > 0 ? count : omp_get_num_procs());
}

int threads() { return omp_get_max_threads(); }

}  // namespace vvtq::engine
