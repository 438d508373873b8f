#include "engine/process.h"

#include <cstdlib>
#include <string>

#include <omp.h>
#include <unistd.h>

#include "engine/check.h"
#include "engine/cpu/backend.h"

namespace vvtq::engine {

void prepare_process(char** argv) {
    bool changed = false;
    const auto set = [&](const char* name, const std::string& value) {
        if (value.empty() || std::getenv(name) != nullptr) return;
        if (setenv(name, value.c_str(), 0) == 0) changed = true;
    };
    set("OPENBLAS_CORETYPE", cpu::better_blas_kernels());
    if (std::getenv("OMP_WAIT_POLICY") == nullptr) set("GOMP_SPINCOUNT", "2000");
    if (changed) execv("/proc/self/exe", argv);  // returns only where it failed: slower, but right as well
}

void set_threads(int count) {
    VVTQ_CHECK(count >= 0, "threads ", count);
    omp_set_num_threads(count > 0 ? count : omp_get_num_procs());
}

int threads() { return omp_get_max_threads(); }

}  // namespace vvtq::engine
