// soft_labels: what a teacher said about crops of every picture of a data set, in one file.
//
// The file is a header of 64 bytes and one record of fixed size per picture, so that a picture's crops are
// found without an index and the file is mapped, never loaded. All numbers are little-endian. A record holds
//     coords (M, 4) f32 | index (M, indices) i32 | value (M, values) f32 | flip (M) u8, padded to 4 bytes
// with M crops per picture and, per label type (classes C):
//     type                                indices  values   the full distribution p
//     ori                                 0        C        p itself
//     hard                                1        0        one-hot
//     smoothing                           1        1        the rest: (1 - value) / (C - 1)
//     marginal_smoothing_k5, _k10         k        k        the rest: (1 - sum of values) / (C - k)
//     marginal_renorm(_k5)                5        5        values divided by their sum, the rest 0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/bytes.h"
#include "data/crops.h"

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

struct SoftLabelHeader {
    LabelType type = LabelType::marginal_smoothing_k5;
    int64_t pictures = 0;
    int crops = 0;  ///< M, per picture
    int classes = 0;
    uint64_t fingerprint = 0;  ///< Dataset::fingerprint() of the labelled data set
    uint64_t seed = 0;         ///< that the crops were drawn with
};

/// One crop's label, in place in the file.
struct LabelledCrop {
    Coords coords{};
    bool flip = false;
    std::span<const int32_t> index;
    std::span<const float> value;
};

/// A label file, mapped. crop() may be called from several threads.
class SoftLabels {
  public:
    /// Errors: input_error naming the file where it is missing, truncated, or of another kind or version.
    /// Files up to 64 MiB are validated whole, larger ones crop by crop as they are read.
    static SoftLabels open(const std::string& path);

    const SoftLabelHeader& header() const { return header_; }
    const std::string& path() const { return path_; }
    /// The whole file.
    std::span<const uint8_t> bytes() const { return file_.bytes(); }

    /// Throws input_error unless the file labels this data set.
    void require_matches(uint64_t fingerprint, int64_t pictures, int classes,
                         const std::string& dataset) const;

    /// Errors: input_error naming file and picture where coordinates leave [0, 1], a number is not finite, or
    /// a class index is out of range.
    LabelledCrop crop(int64_t picture, int crop) const;
    /// Reads every crop once.
    void validate() const;

  private:
    SoftLabels(const std::string& path, MappedFile file);

    std::string path_;
    MappedFile file_;
    SoftLabelHeader header_;
};

/// Writes a label file picture by picture; it appears under its name with finish(), complete or not at all.
class SoftLabelWriter {
  public:
    SoftLabelWriter(const std::string& path, const SoftLabelHeader& header);

    /// The next picture. coords: (M); flips: (M); p: (M, C), the teacher's softmax, packed here.
    void append(std::span<const Coords> coords, std::span<const uint8_t> flips, std::span<const float> p);
    /// All pictures must have been appended.
    void finish();

  private:
    AtomicFile file_;
    SoftLabelHeader header_;
    int64_t appended_ = 0;
    Bytes record_;
    std::vector<int32_t> index_;
    std::vector<float> value_;
};

}  // namespace vvtq::data
