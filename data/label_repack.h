// label_repack: from a tree of label files to a packed file, and back.
#pragma once

#include <string>

#include "data/soft_labels.h"

namespace vvtq::data {

struct Repacked {
    int64_t pictures = 0;  ///< that were written
    int64_t of = 0;        ///< that there are
    std::string note;      ///< a line for the log, or empty
};

/// Packs the tree of label files at `root` into `path`. With `dataset` record i is the labels of its picture
/// i, else the files are taken in the order of their names and `classes` (0: not known) is written down.
/// Where it was stopped nothing is left. Errors: input_error naming a file that is missing, damaged, not as
/// training needs it, or has another number of crops than the first.
Repacked pack_tree(const std::string& root, const std::string& path, LabelType type, int classes,
                   const Dataset* dataset, const Stop& stop);

/// The inverse: a file a picture below `root`, under the names in the packed file. Errors: input_error where
/// a name is not one of a file below the root, before anything is written, and where the labels are damaged.
Repacked unpack_tree(const std::string& path, const std::string& root, const Stop& stop);

}  // namespace vvtq::data
