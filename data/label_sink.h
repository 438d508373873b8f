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
    /// Goes on where a stopped run with the same header left off, and returns the number of the picture that
    /// comes next. To be called before append(). Errors: input_error where a stopped run had another header.
    virtual int64_t resume() = 0;
    /// The labels of picture `picture`, which comes after those before.
    virtual void append(int64_t picture, const PictureLabels& labels) = 0;
    virtual void finish() = 0;
};

/// `dataset` must outlive the sink. Errors: input_error where `path` cannot be made, or, for a tree, holds
/// something else.
std::unique_ptr<LabelSink> make_packed_sink(const std::string& path, const SoftLabelHeader& header,
                                            const Dataset& dataset);
std::unique_ptr<LabelSink> make_tree_sink(const std::string& root, const SoftLabelHeader& header,
                                          const Dataset& dataset);

/// Packs the tree of label files at `root` into `path`; returns the number of pictures. With `dataset` record
/// i is the labels of its picture i, else the files are taken in the order of their names and `classes` (0:
/// not known) is written down. Errors: input_error naming a file that is missing, damaged, or has another
/// number of crops than the first.
int64_t pack_tree(const std::string& root, const std::string& path, LabelType type, int classes,
                  const Dataset* dataset);

/// The inverse: a file a picture below `root`, under the names in the packed file. Files that exist are
/// replaced. Errors: input_error for a name that leads out of the root.
int64_t unpack_tree(const std::string& path, const std::string& root);

}  // namespace vvtq::data
