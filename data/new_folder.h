// new_folder: a folder that is there as a whole or not at all.
#pragma once

#include <string>

namespace vvtq::data {

/// Makes `path` under a temporary name beside it; commit() flushes what lies in it to the disk and gives it
/// its name. Without commit() it is removed again. Errors: input_error where `path` is there already and is
/// no empty folder, or where it cannot be made.
class NewFolder {
  public:
    explicit NewFolder(const std::string& path);
    NewFolder(const NewFolder&) = delete;
    NewFolder& operator=(const NewFolder&) = delete;
    ~NewFolder();

    /// Where to write until then.
    const std::string& path() const { return temporary_; }
    /// Errors: run_error where the disk fails, or another has made `path` meanwhile.
    void commit();

  private:
    std::string target_, temporary_;
};

}  // namespace vvtq::data
