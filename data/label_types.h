// label_types: the ways in which a class distribution is kept short in a label set, and back.
//
//     type (classes C, k kept)            indices  values   the full distribution p
//     ori                                 0        C        p itself
//     hard                                1        0        one-hot
//     smoothing                           1        1        the rest: (1 - value) / (C - 1)
//     marginal_smoothing_k5, _k10         k        k        the rest: (1 - sum of values) / (C - k)
//     marginal_renorm(_k5)                5        5        values divided by their sum, the rest 0
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace vvtq::data {

enum class LabelType : uint32_t {
    ori,
    hard,
    smoothing,
    marginal_smoothing_k5,
    marginal_smoothing_k10,
    marginal_renorm
};

/// Errors: input_error for an unknown name, listing the known ones.
LabelType parse_label_type(const std::string& name);
const char* label_type_name(LabelType type);

/// How many indices and values a packed label holds.
int label_indices(LabelType type);
int label_values(LabelType type, int classes);
/// Throws input_error where a label of this type needs more classes than there are, naming the types that
/// fit.
void require_label_fits(LabelType type, int classes);

/// p: (C) -> index: (indices), value: (values). The largest first; of equals the lower class first.
/// Errors: run_error where p is not finite.
template <typename Real>
void pack_label(LabelType type, std::span<const Real> p, std::span<int32_t> index, std::span<Real> value);

/// index: (indices), value: (values) -> p: (C), summed in double. Indices must be in range.
template <typename Real>
void recover_label(LabelType type, std::span<const int32_t> index, std::span<const Real> value,
                   std::span<Real> p);

}  // namespace vvtq::data
