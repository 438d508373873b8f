// fkd_labels: labels as published (FKD), a tree with one file of torch.save a picture: [coords (M, 4), flip
// (M), label], numpy arrays or tensors of 16 or 32 bits, where label is (M, C) for `ori`, (M) for `hard`, (M,
// 2) for `smoothing` (class, probability), and (M, 2, k) for the others (classes, probabilities).
#pragma once

#include <string>

#include "data/soft_labels.h"

namespace vvtq::data {

/// Reads the label file `bytes`. `path` appears in messages. The labels lie in labels.own_...
/// Errors: input_error where the file is damaged, its parts do not fit together, or its label is not of
/// `type`.
void parse_fkd(std::span<const uint8_t> bytes, const std::string& path, LabelType type,
               PictureLabels& labels);

/// The bytes of a label file. `classes` is asked for by `ori` alone; `name` is the archive's folder.
Bytes write_fkd(LabelType type, int classes, const PictureLabels& labels, const std::string& name);

/// A tree of label files: of picture i at "<root>/<label_name(i)>.tar", or without the first part of that
/// name where the tree begins below it.
class FkdLabels : public SoftLabels {
  public:
    /// Reads the first picture's file; the others are read when they are used. `dataset` must outlive this.
    /// Errors: input_error naming the file where it is missing or damaged.
    FkdLabels(const std::string& root, const Dataset& dataset, LabelType type);

    void read(int64_t picture, PictureLabels& labels) const override;
    std::string place(int64_t picture) const override;
    uint64_t content_hash() const override;

  private:
    std::string file(int64_t picture) const;

    const Dataset& dataset_;
    size_t cut_ = 0;  // characters of a label name that the tree begins below
};

/// The .tar files below `root`, relative to it and without ".tar", sorted. Errors: input_error where there
/// are none.
std::vector<std::string> list_fkd(const std::string& root);

}  // namespace vvtq::data
