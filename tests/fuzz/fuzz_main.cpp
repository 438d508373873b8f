// The program of one target: VVTQ_FUZZ_TARGET is its name.
#include <cstdlib>

#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static const vvtq::tests::FuzzTarget* const target = vvtq::tests::find_fuzz_target(VVTQ_FUZZ_TARGET);
    if (target == nullptr) std::abort();
    target->run({data, size});
    return 0;
}
