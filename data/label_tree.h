// label_tree: a folder that label files are written into, by one process at a time.
#pragma once

#include <memory>
#include <string>

#include "data/file_lock.h"
#include "data/soft_labels.h"

namespace vvtq::data {

/// The folder `root`. Its file softlabel.json says where its labels come from, so that labels of two origins
/// are not mixed.
class LabelTree {
  public:
    /// `origin` is one line of JSON. Errors: input_error where the folder cannot be made, is being written by
    /// another process, holds labels of another origin, or something else.
    LabelTree(const std::string& root, const std::string& origin);

    /// The path of the label file of that name.
    std::string file(const std::string& name) const { return root_ + "/" + name + ".tar"; }
    /// Writes a label file, or replaces it whole.
    void write(const std::string& name, LabelType type, int classes, const PictureLabels& labels);
    /// From here on all that was written is on the disk. Errors: run_error where that fails.
    void flush();

  private:
    std::string root_;
    std::unique_ptr<FolderLock> lock_;
};

}  // namespace vvtq::data
