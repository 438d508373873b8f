// data/: from files to batches. Reads pictures, data sets, labels and checkpoints, cuts crops, and hands out
// batches in an order that the seed fixes. Knows nothing of models or gradients.
//
// bytes: files read whole or mapped, files written atomically, and the hash that names a data set.
// Every reader of this folder treats its file as hostile: sizes are checked before anything is allocated.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace vvtq::data {

using Bytes = std::vector<uint8_t>;

/// Text of unknown origin made fit for a one-line message: control characters become '?', long text is cut.
std::string printable(std::string_view text);

/// False also where the path cannot be looked at.
bool is_directory(const std::string& path);

/// Called with the first bytes of a file (up to 16) and its size before the rest is read; may throw.
using FirstLook = std::function<void(std::span<const uint8_t> first, uint64_t size)>;

/// A whole file in memory. Errors: input_error with the path, the system's reason and `remedy`, also where
/// the path leads to a directory, a pipe, a device or a socket: these are never opened, so nothing waits.
Bytes read_file(const std::string& path, const std::string& remedy);
/// The same into memory that is used again.
void read_file(const std::string& path, const std::string& remedy, Bytes& bytes, const FirstLook& look = {});

/// A file mapped read-only; the pages come in as they are touched. Copies share the mapping. Errors: as of
/// read_file.
class MappedFile {
  public:
    MappedFile(const std::string& path, const std::string& remedy);
    std::span<const uint8_t> bytes() const { return {data_.get(), size_}; }

  private:
    std::shared_ptr<const uint8_t> data_;
    size_t size_ = 0;
};

/// From here on a mapped file that became shorter ends the process with status 1 and one line that begins
/// with `command` and names the file, instead of SIGBUS.
void tell_of_lost_mappings(const std::string& command);

/// Writes all bytes; false, with errno, where that fails.
bool write_all(int descriptor, const void* data, size_t size);

/// Makes what was created, renamed or removed in a directory last. Some file systems cannot, harmlessly.
void flush_directory(const std::string& directory);

/// Writes `path` under a temporary name in the same directory; commit() flushes it to the disk and renames it
/// over `path`. Without commit() nothing is left behind and a previous `path` stays as it was. A symbolic
/// link stays one: what it points to is written. Errors: input_error where the file cannot be made, or may
/// not be replaced (a device, a mount point, another user's file in a shared directory); run_error where a
/// write fails (a full disk).
class AtomicFile {
  public:
    explicit AtomicFile(const std::string& path);
    AtomicFile(const AtomicFile&) = delete;
    AtomicFile& operator=(const AtomicFile&) = delete;
    ~AtomicFile();

    /// Takes the room for `size` bytes now, where the file system can; the file then has at least this size.
    void reserve(size_t size);
    void write(const void* data, size_t size);
    /// Without `durable` the file is not flushed: for many small files that can be made again.
    void commit(bool durable = true);

  private:
    [[noreturn]] void fail(const char* action) const;

    std::string path_;
    std::string temporary_;
    int descriptor_ = -1;
};

/// CRC-32 of zip and PNG: finds every flipped bit, no deliberate change. `before`: the checksum of the bytes
/// that come before these.
uint32_t checksum(std::span<const uint8_t> bytes, uint32_t before = 0);

/// FNV-1a, 64 bits.
class Fnv {
  public:
    void add(std::span<const uint8_t> bytes);
    void add(std::string_view text);  ///< the text and its length
    void add(uint64_t number);        ///< eight bytes, least significant first
    uint64_t value() const { return hash_; }

  private:
    uint64_t hash_ = 0xCBF29CE484222325ULL;
};

}  // namespace vvtq::data
