// positioned_file: a file that is read in parts, each from its place. Others may cut or change it meanwhile:
// unlike memory that is mapped, a read of what is gone fails and does not kill the process.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace vvtq::data {

/// An open file. Copies share it; read() may be called from several threads.
class PositionedFile {
  public:
    /// Errors: input_error with the path, the system's reason and `remedy`; also where it is no regular file.
    PositionedFile(const std::string& path, const std::string& remedy);

    /// Bytes of the file when it was opened.
    uint64_t size() const { return size_; }
    /// Reads `bytes` bytes from `at` on. Errors: run_error naming the path and `what` was read, where the
    /// file has become shorter or cannot be read.
    void read(uint64_t at, void* to, size_t bytes, const std::string& what) const;

  private:
    std::string path_;
    std::shared_ptr<const int> descriptor_;
    uint64_t size_ = 0;
};

}  // namespace vvtq::data
