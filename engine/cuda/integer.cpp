// integer: products of integer codes are the CPU's. Here codes are bf16, whose products are exact as well.
#include "engine/cuda/families.h"

namespace vvtq::engine::cuda {

void pack_codes(Arg, Arg) { internal_error("integer codes are for the CPU"); }

void linear_codes(Arg, Arg, Arg, Arg, bool, const QuantParams&, Arg) {
    internal_error("integer codes are for the CPU");
}

void attention_codes(Arg, Arg, const AttentionProblem&, Arg) {
    internal_error("integer codes are for the CPU");
}

}  // namespace vvtq::engine::cuda
