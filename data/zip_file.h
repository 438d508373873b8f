// zip_file: zip archives, read by libzip; torch.save writes them.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "data/bytes.h"

namespace vvtq::data {

bool is_zip(std::span<const uint8_t> bytes);

/// The files of an archive by name. `file` appears in messages. Errors: input_error where the archive is
/// truncated, damaged, encrypted, compressed by anything but deflate, or holds more than `most` times its own
/// size and a MiB.
std::map<std::string, Bytes> read_zip(std::span<const uint8_t> bytes, const std::string& file,
                                      uint64_t most = 64);

/// A file to be written; `content` must outlive the call.
struct ZipEntry {
    std::string name;
    std::span<const uint8_t> content;
};

/// An archive of stored files in the order given. Errors: input_error where it would not stay below 4 GiB.
Bytes write_zip(const std::vector<ZipEntry>& files);

}  // namespace vvtq::data
