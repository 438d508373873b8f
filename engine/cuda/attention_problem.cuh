// attention_problem: what the attention kernels are asked to do, and which rows of memory that concerns.
#pragma once

#include "engine/cuda/device.cuh"

namespace vvtq::engine::cuda {

/// How an attention kernel is handed its problem. Index t of three arrays: q, k, v.
struct AttentionArguments {
    const bf16* z;  // (B, N, 3C)
    const float* input_scale;
    const float* weight_scale[3];
    const float* bias[3];
    QuantArgument step[3], probability, output;
    int tokens, heads, width;  // n, H, D
    float scale;
    int groups, problems;               // of a sample, of all
    const int* order;                   // (groups n)?
    const float *terms, *terms_by_key;  // score_terms(), or null
    bool masked;                        // terms differ from group to group
    bool vectors;                       // rows of a head are 16-byte vectors
    bool paired;                        // columns of a head begin at 4-byte boundaries, two of them at a time

    __host__ __device__ int channels() const { return heads * width; }
    __host__ __device__ int rows() const { return (tokens + 15) / 16 * 16; }
};

/// Where the tokens of a group lie in (B N) rows. `grouped`: the group is not a sample in order.
template <bool grouped>
struct TokenRows {
    int64_t first;  // of the sample
    const int* row_of;

    /// Behind the first.
    __device__ int row(int token) const {
        if constexpr (grouped) return row_of[token];
        return token;
    }
};

/// The problems that a block works on, one after the other; it stays with one head and one group of each
/// sample. `row_of` is shared memory for the rows of tokens.
template <bool grouped>
struct Problems {
    int head, problem, stride;  // from one to the next
    TokenRows<grouped> tokens;

    __device__ Problems(const AttentionArguments& s, int* row_of)
        : head(static_cast<int>(blockIdx.x) % s.heads),
          problem(static_cast<int>(blockIdx.x) / s.heads),
          stride(static_cast<int>(gridDim.x) / s.heads),
          tokens{static_cast<int64_t>(problem) * s.tokens, row_of} {
        if constexpr (grouped) {
            const int start = problem % s.groups * s.tokens;
            for (int i = static_cast<int>(threadIdx.x); i < s.rows(); i += static_cast<int>(blockDim.x)) {
                const int token = start + min(i, s.tokens - 1);
                row_of[i] = s.order != nullptr ? s.order[token] : token;
            }
            place(s);
            __syncthreads();
        }
    }
    /// On to the next one, if there is one, after all threads are done with this.
    __device__ bool advance(const AttentionArguments& s) {
        if constexpr (!grouped) return false;
        problem += stride;
        place(s);
        __syncthreads();
        return problem < s.problems;
    }
    /// What is added to scores of the group and head, of all `terms` or those by key; or null.
    __device__ const float* terms(const AttentionArguments& s, const float* terms) const {
        if (!grouped || terms == nullptr) return nullptr;
        const int group = s.masked ? problem % s.groups : 0;
        return terms + (static_cast<int64_t>(group) * s.heads + head) * s.rows() * s.rows();
    }

  private:
    __device__ void place(const AttentionArguments& s) {
        tokens.first = static_cast<int64_t>(problem / s.groups) * s.groups * s.tokens;
    }
};

}  // namespace vvtq::engine::cuda
