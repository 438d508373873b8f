// kernel_checks: what both backends ask of a kernel's arguments, whose shapes stand in engine/kernels.h.
#pragma once

#include <algorithm>

#include "engine/kernels.h"

namespace vvtq::engine {

inline constexpr int kTaps = 9;  // of a 3 x 3 convolution

/// Throws unless both tensors have the same dtype and number of elements.
inline void check_like(Arg x, Arg y) {
    VVTQ_CHECK(x.dtype() == y.dtype() && x.numel() == y.numel(), name_of(x.dtype()), x.shape().str(), " and ",
               name_of(y.dtype()), y.shape().str());
}

/// Throws unless t has n elements of the dtype.
inline void check_size(Arg t, int64_t n, DType dtype) {
    VVTQ_CHECK(t.numel() == n && t.dtype() == dtype, name_of(t.dtype()), t.shape().str(), " instead of ", n,
               " ", name_of(dtype));
}

/// Throws unless x is (B, N, C) with N > 0.
inline void check_tokens(Arg x) {
    VVTQ_CHECK(x.shape().rank() == 3 && x.shape()[1] > 0, "tokens (B, N, C) wanted, not ", x.shape().str());
}

/// Elements of one sample of x, where `keep` has a factor for each.
inline int64_t sample_size(Arg x, Arg keep) {
    if (!keep.defined()) return std::max<int64_t>(1, x.numel());
    VVTQ_CHECK(keep.numel() > 0 && x.numel() % keep.numel() == 0 && keep.dtype() == master_of(x.dtype()),
               "keep ", keep.shape().str(), " for ", x.shape().str());
    return x.numel() / keep.numel();
}

/// Sizes of attention over z (B, N, 3C), in groups of neighbouring tokens.
struct AttentionSizes {
    int64_t batch, heads, tokens, width;  // groups of all samples; tokens of a group; columns of a head

    AttentionSizes(Arg z, const AttentionProblem& problem) : heads(problem.heads) {
        const Shape& shape = z.shape();
        VVTQ_CHECK(shape.rank() == 3 && heads > 0 && shape[2] % (3 * heads) == 0 && problem.groups > 0 &&
                       shape[1] % problem.groups == 0,
                   "z ", shape.str(), ", ", heads, " heads, ", problem.groups, " groups");
        batch = shape[0] * problem.groups;
        tokens = shape[1] / problem.groups;
        width = shape[2] / (3 * heads);
    }
    int64_t channels() const { return heads * width; }
};

/// Throws unless every part has the master dtype of `flat` and lies inside of it.
inline void check_parts(const std::vector<PackItem>& items, Arg flat) {
    for (const PackItem& item : items) {
        const int64_t n = item.part.numel();
        check_size(item.part, n, master_of(flat.dtype()));
        VVTQ_CHECK(item.begin >= 0 && item.begin + n <= flat.numel(), n, " elements at ", item.begin, " of ",
                   flat.shape().str());
    }
}

/// Throws unless all of a tracked weight has its shape, and a mean where weights are frozen.
inline void check_track(const CodeTrackItem& item, Arg threshold) {
    const int64_t n = item.w.numel();
    check_size(item.code, n, DType::u8);
    check_size(item.mark, n, DType::u8);
    check_size(item.frequency, n, DType::f32);
    VVTQ_CHECK(item.mean.defined() == threshold.defined(), "mean and threshold go together");
    if (!threshold.defined()) return;
    VVTQ_CHECK(item.params.defined(), "weights of one bit are not frozen");
    check_size(item.mean, n, DType::f32);
    check_size(threshold, 1, DType::f32);
}

/// S of parts (S, n), for y (n).
inline int64_t part_count(Arg parts, Arg y) {
    const int64_t n = y.numel(), count = parts.shape()[0];
    VVTQ_CHECK(count > 0, "the sum of no parts");
    check_size(parts, count * n, y.dtype());
    return count;
}

/// Outputs of a grouped convolution by w (outputs, 9).
inline int64_t grouped_outputs(const Convolution& shape, Arg w) {
    const int64_t outputs = w.shape().rows();
    VVTQ_CHECK(shape.channels_last && w.shape().cols() == kTaps && outputs % shape.channels == 0, "w ",
               w.shape().str(), " for ", shape.channels, " groups, channels last");
    return outputs;
}

/// x (B, R, D) with s (B) or (B, D).
struct BinaryShape {
    int64_t batch, rows, cols;
    bool per_column;

    BinaryShape(Arg x, Arg s) {
        const Shape& shape = x.shape();
        VVTQ_CHECK(shape.rank() == 3, "(B, R, D) wanted, not ", shape.str());
        batch = shape[0];
        rows = shape[1];
        cols = shape[2];
        per_column = s.shape().rank() == 2;
        check_size(s, per_column ? batch * cols : batch, master_of(x.dtype()));
    }
};

}  // namespace vvtq::engine
