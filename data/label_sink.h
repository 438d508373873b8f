// label_sink: where `vvtq softlabel` puts labels: a packed file, or a tree with a file a picture.
#pragma once

#include <memory>
#include <string>

#include "data/soft_labels.h"

namespace vvtq::data {

/// Takes the labels of a data set's pictures in order. What was taken survives a stop.
class LabelSink {
  public:
    virtual ~LabelSink() = default;
    /// Goes on where a stopped run with the same header left off; labels from the first damaged one on are
    /// made again. To be called before append(); where it was stopped the sink is not to be used on. Errors:
    /// input_error where a stopped run had another header.
    virtual Resumed resume(const Stop& stop) = 0;
    /// The labels of picture `picture`, which comes after those before.
    virtual void append(int64_t picture, const PictureLabels& labels) = 0;
    /// From here on all labels are on the disk.
    virtual void finish() = 0;
};

/// `dataset` must outlive the sink. Errors: input_error where `path` cannot be made, is being written by
/// another process, or, for a tree, holds something else.
std::unique_ptr<LabelSink> make_packed_sink(const std::string& path, const SoftLabelHeader& header,
                                            const Dataset& dataset);
std::unique_ptr<LabelSink> make_tree_sink(const std::string& root, const SoftLabelHeader& header,
                                          const Dataset& dataset);

}  // namespace vvtq::data
