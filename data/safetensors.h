// safetensors: named tensors in one file: 8 bytes of header length, a JSON header, then the bytes of the
// tensors. Files written here carry checksums in their metadata: "tensor_crc32", a JSON object of each
// tensor's CRC-32 in hexadecimal, and "crc32", that of the whole header with zeros in its own place.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "data/bytes.h"

namespace vvtq::data {

/// A safetensors file, mapped.
class SafeTensors {
  public:
    struct Entry {
        std::string dtype;  ///< as in data/elements.h
        std::vector<int64_t> shape;
        size_t begin = 0;  ///< bytes from the start of the tensors' part
        size_t end = 0;
        int64_t count() const;  ///< elements
    };

    /// Errors: input_error naming the file where it is missing, truncated, or not well formed: bad header
    /// length or JSON, unknown type, a name twice, sizes that do not match shapes, tensors that overlap or
    /// leave gaps; and where it has checksums and one of them does not fit, naming the tensor.
    static SafeTensors open(const std::string& path);

    const std::string& path() const { return path_; }
    /// Without the checksums.
    const std::map<std::string, std::string>& metadata() const { return metadata_; }
    /// Whether the file had checksums.
    bool has_checksums() const { return has_checksums_; }
    const std::map<std::string, Entry>& entries() const { return entries_; }
    bool contains(const std::string& name) const { return entries_.count(name) != 0; }

    /// The entry, or input_error naming file and tensor.
    const Entry& entry(const std::string& name) const;
    /// The tensor's bytes; not aligned.
    std::span<const uint8_t> bytes(const std::string& name) const;
    /// The elements converted to float or double (data/elements.h).
    template <typename To>
    std::vector<To> read(const std::string& name) const;

  private:
    SafeTensors(const std::string& path, MappedFile file);
    void verify();

    std::string path_;
    MappedFile file_;
    size_t data_at_ = 0;
    bool has_checksums_ = false;
    std::map<std::string, std::string> metadata_;
    std::map<std::string, Entry> entries_;
};

/// A tensor to be written; `data` holds its elements in row-major order and is not owned.
struct TensorBytes {
    std::string name;
    std::string dtype;
    std::vector<int64_t> shape;
    std::span<const uint8_t> data;
};

/// Writes tensors, metadata and checksums atomically (AtomicFile). Wide types come first, so that every
/// tensor is aligned. Errors: input_error where the file cannot be made, run_error where the disk is full,
/// with the file of that name unchanged.
void write_safetensors(const std::string& path, const std::vector<TensorBytes>& tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace vvtq::data
