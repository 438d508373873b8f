#include "engine/process.h"

#include <cstdlib>

#include <omp.h>
#include <unistd.h>

#include "engine/check.h"

namespace vvtq::engine {

void prepare_process(char** argv) {
    if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
    setenv("GOMP_SPINCOUNT", "2000", 1);  // tens of microseconds
    execv("/proc/self/exe", argv);        // returns only where it failed: slower, but right as well
}

void set_threads(int count) {
    VVTQ_CHECK(count >= 0, "threads ", count);
    omp_set_num_threads(count > 0 ? count : omp_get_num_procs());
}

int threads() { return omp_get_max_threads(); }

}  // namespace vvtq::engine
