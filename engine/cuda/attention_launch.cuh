// attention_launch: how the host prepares the attention kernels.
#pragma once

#include "engine/cuda/attention_problem.cuh"

namespace vvtq::engine::cuda {

/// Without terms.
AttentionArguments attention_arguments(const Tensor& z, const AttentionProblem& problem);

/// Whether a kernel needs to be `grouped`.
inline bool is_grouped(const AttentionProblem& problem) {
    return problem.order.defined() || problem.score_bias.defined() || problem.mask.defined();
}
/// Whether the kernels take this: bf16 of which shared memory holds a problem, forward and backward. Else
/// both are composed: they must round scores alike, or they find different codes.
bool has_attention_kernel(const Tensor& z, const AttentionProblem& problem);
/// (1 or groups, H, R / 16, R / 16, 256): log2 e times what the steps add to scores of n tokens, R the
/// multiple of 16 from n on; -inf for keys that are none. Pieces of 16 queries x 16 keys, or where `by_key`
/// of 16 keys x 16 queries, in the order of place_in_piece(). Undefined if the steps add nothing.
Tensor score_terms(const AttentionProblem& problem, int64_t tokens, bool by_key);

/// How many problems of each head are under way at a time. With groups, a block takes them from sample to
/// sample; how many blocks there are does not depend on the GPU, for the sake of equal sums.
inline int64_t problems_at_a_time(const AttentionArguments& s, bool grouped) {
    if (!grouped) return s.problems;
    constexpr int64_t kBlocks = 2048;
    const int64_t samples = s.problems / s.groups;
    return s.groups * std::min(samples, ceil_div(kBlocks, static_cast<int64_t>(s.groups) * s.heads));
}

/// Calls f.operator()<D>() with the least compiled D that holds a head of `width` columns, if one does.
template <typename F>
void with_width(int64_t width, F&& f) {
    if (width <= 16) {
        f.template operator()<16>();
    } else if (width <= 32) {
        f.template operator()<32>();
    } else if (width <= 48) {
        f.template operator()<48>();
    } else if (width <= 64) {
        f.template operator()<64>();
    } else if (width <= 96) {
        f.template operator()<96>();
    } else if (width <= 128) {
        f.template operator()<128>();
    }
}

/// Lets a kernel's blocks have `shared` bytes each, as many of them on a multiprocessor as its memory holds.
template <typename Kernel>
void allow_memory(Kernel* kernel, size_t shared) {
    VVTQ_CUDA(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
    VVTQ_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                   cudaSharedmemCarveoutMaxShared));
}

/// Warps of a block and its bytes of shared memory.
struct Plan {
    int warps;
    size_t shared;
};

/// A plan for so many units of work, one to a warp and turn: that which has most of them under way on a
/// multiprocessor with registers for `most` warps, in many small blocks where there is a choice.
template <typename Memory>
Plan plan_for(int64_t units, int most, const Memory& memory_of) {
    Plan best{};
    int64_t best_blocks = 0, best_turns = 1;
    for (int blocks = std::max(4, most / 4); blocks >= 1; --blocks) {
        const int64_t turns = ceil_div(units, most / blocks);
        const int warps = static_cast<int>(ceil_div(units, turns));
        const size_t shared = memory_of(warps), reserved = 1024;  // for each block
        if (blocks > 1 && blocks * (shared + reserved) > gpu().shared_memory + reserved) continue;
        if (blocks * best_turns <= best_blocks * turns) continue;
        best = {warps, shared};
        best_blocks = blocks;
        best_turns = turns;
    }
    return best;
}

}  // namespace vvtq::engine::cuda
