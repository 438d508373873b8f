// soft_labels: what a teacher said about crops of every picture of a data set: a packed file
// (packed_labels.h) or a directory tree with a file a picture, as published (fkd_labels.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/crops.h"
#include "data/dataset.h"
#include "data/label_types.h"

namespace vvtq::data {

struct SoftLabelHeader {
    LabelType type = LabelType::marginal_smoothing_k5;
    int64_t pictures = 0;
    int crops = 0;             ///< M, per picture
    int classes = 0;           ///< 0 where the files do not tell: those of the data set
    uint64_t fingerprint = 0;  ///< Dataset::fingerprint() of the labelled data set; 0 where it is not known
    uint64_t seed = 0;         ///< that the crops were drawn with
    uint64_t settings = 0;     ///< what else decided the labels, hashed; 0 where it is not known
};

/// The labels of one picture's crops: spans into the set, or into memory of its own that the next read uses
/// again.
struct PictureLabels {
    std::span<const float> coords;   ///< (M, 4)
    std::span<const uint8_t> flips;  ///< (M)
    std::span<const int32_t> index;  ///< (M, indices of the type)
    std::span<const float> value;    ///< (M, values of the type)

    std::vector<float> own_coords, own_value;
    Bytes own_flips, file;
    std::vector<int32_t> own_index;
};

/// One crop's label.
struct LabelledCrop {
    Coords coords{};
    bool flip = false;
    std::span<const int32_t> index;
    std::span<const float> value;
};

/// Crop m of `labels`, which hold `classes` classes (0: not known). `place` is for messages. Errors:
/// input_error naming the place where a number is not finite or out of its range (coordinates and
/// probabilities [0, 1], classes those there are, each once) or where the probabilities do not add up.
LabelledCrop checked_crop(LabelType type, int classes, const PictureLabels& labels, int m,
                          const std::function<std::string()>& place);

/// Asked before anything is written and before every picture; where it says true, the work stops.
using Stop = std::function<bool()>;

/// How far a stopped run had come.
struct Resumed {
    int64_t next = 0;      ///< the data set's picture that comes next
    std::string note;      ///< a line for the log where labels were damaged, else empty
    bool stopped = false;  ///< before this was known
};

/// Labels of a data set's pictures. read() and crop() may be called from several threads.
class SoftLabels {
  public:
    virtual ~SoftLabels() = default;

    const SoftLabelHeader& header() const { return header_; }
    const std::string& path() const { return path_; }
    int classes() const { return classes_; }

    /// The labels of picture `picture` of the data set. Errors: input_error naming the file where there are
    /// none, or fewer crops than the header's, or they are damaged.
    virtual void read(int64_t picture, PictureLabels& labels) const = 0;
    /// Where a picture's labels lie, for messages: "label file 'x': picture 3".
    virtual std::string place(int64_t picture) const = 0;
    /// A number that changes with what the set holds. Of a large set the ends count.
    virtual uint64_t content_hash() const = 0;

    /// A line for the log where something is to be known of the files, else empty.
    virtual std::string note() const { return ""; }

    /// Crop m of what read() gave, as checked_crop() gives it.
    LabelledCrop crop(int64_t picture, const PictureLabels& labels, int m) const;

  protected:
    SoftLabels(std::string path, const SoftLabelHeader& header);

    SoftLabelHeader header_;
    int classes_;

  private:
    std::string path_;
};

/// Opens the packed file or the tree of label files at `path` for the pictures of `dataset`. `type` is that
/// of a tree, whose files do not tell; a packed file must have it where `type_given`. Errors: input_error
/// naming what is missing, damaged, or belongs to another data set.
std::unique_ptr<SoftLabels> open_soft_labels(const std::string& path, const Dataset& dataset, LabelType type,
                                             bool type_given);

/// The path of a picture's label file below the tree's root, without ".tar": the last four parts of the
/// picture's path, the last of them up to its first dot. "imagenet/train/n01440764/n01440764_10026".
std::string label_name(const Dataset& dataset, int64_t index);

}  // namespace vvtq::data
