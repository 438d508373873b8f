// file_lock: one writer at a time for files that are written in place, also over several processes.
#pragma once

#include <string>

namespace vvtq::data {

/// Locks an open file or folder until its descriptor is closed; the kernel frees it where a process dies.
/// Errors: input_error naming the path `what` is written to where another process holds the lock.
void lock_descriptor(int descriptor, const std::string& what);

/// Holds the lock file `path` until it is destroyed; the kernel frees it where a process dies. The file
/// stays, so that nobody can lock one that is being removed. Errors: input_error naming `what` is written
/// and the process that holds the lock, or where the file cannot be made.
class FileLock {
  public:
    FileLock(const std::string& path, const std::string& what);
    FileLock(const FileLock&) = delete;
    FileLock& operator=(const FileLock&) = delete;
    ~FileLock();

    /// Whether `path` is still the file that is locked: it may have been removed or replaced.
    bool is_at(const std::string& path) const;

  private:
    int descriptor_;
};

/// Holds a lock on the folder `path` itself, which must exist, likewise.
class FolderLock {
  public:
    explicit FolderLock(const std::string& path);
    FolderLock(const FolderLock&) = delete;
    FolderLock& operator=(const FolderLock&) = delete;
    ~FolderLock();

    int descriptor() const { return descriptor_; }

  private:
    int descriptor_;
};

}  // namespace vvtq::data
