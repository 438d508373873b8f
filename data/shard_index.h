// shard_index: which picture lies where in the tar archives ("shards") of a packed folder. A folder train/ of
// a packed data set holds shard-000000.tar, shard-000001.tar, ... and shards.index:
//
//   ShardIndexHeader   128 bytes
//   uint64 x shards    bytes of each archive
//   ShardRecord x pictures, in the order of the folder that was packed
//   names              of the classes, then of the pictures ("<class>/<picture>"), each ended by a zero byte
//
// Numbers are little-endian. Picture i is the member "<i>.jpg" (i in nine digits; or .png, .bmp, .ppm, .pgm)
// of its archive, followed by "<i>.cls", its class as a decimal number: WebDataset's layout. In the archives
// pictures lie in a random order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "data/bytes.h"

namespace vvtq::data {

constexpr const char* kShardIndex = "shards.index";  ///< the name of the file

struct ShardIndexHeader {
    char magic[8];
    uint32_t version;
    uint32_t classes;
    uint64_t pictures;
    uint32_t shards;
    uint32_t resize;      // shorter side that larger pictures were brought to; 0: all as they were
    uint32_t quality;     // of the JPEGs that were made then
    uint32_t body_check;  // checksum() of all that follows the header
    uint64_t reencoded;   // pictures
    uint64_t origin;      // Dataset::fingerprint() of the folder that was packed
    uint64_t names;       // bytes
    uint64_t reserved[7];
    uint64_t check;  // FNV-1a of the bytes before
};
static_assert(sizeof(ShardIndexHeader) == 128);

inline uint64_t header_check(const ShardIndexHeader& header) {
    Fnv fnv;
    fnv.add(std::span(reinterpret_cast<const uint8_t*>(&header), offsetof(ShardIndexHeader, check)));
    return fnv.value();
}

/// Where a picture lies.
struct ShardRecord {
    uint64_t at;     ///< of its first byte in the archive
    uint64_t size;   ///< in bytes
    uint32_t check;  ///< checksum() of its bytes
    uint32_t shard;
    uint32_t label;
    uint32_t type;  ///< of MemberType
};
static_assert(sizeof(ShardRecord) == 32);

enum class MemberType : uint32_t { jpg, png, bmp, ppm, pgm };

/// An index in memory.
struct ShardIndex {
    int resize = 0;
    int quality = 0;
    int64_t reencoded = 0;
    uint64_t origin = 0;
    std::vector<std::string> classes;
    std::vector<std::string> files;  ///< "<class>/<picture>"
    std::vector<ShardRecord> records;
    std::vector<uint64_t> shard_bytes;

    /// The name of a member without its ending: "000000012".
    static std::string key(int64_t picture);
    /// "000000012.jpg"
    std::string member(int64_t picture) const;
    /// "shard-000001.tar"
    static std::string shard_name(uint32_t shard);
    /// Pictures in the order in which they lie in the archives.
    std::vector<int64_t> in_place() const;
};

/// The bytes of an index file.
Bytes write_shard_index(const ShardIndex& index);

/// Reads an index file. Errors: input_error naming `path` where it is damaged, of another version, or asks
/// for what no packing makes: records outside of their archive, upon one another, without a class, or names
/// that lead elsewhere than below their class folder.
ShardIndex read_shard_index(const Bytes& bytes, const std::string& path);

/// Whether `name` leads to one file below a folder, and no other text leads there: no empty part, no ".", no
/// "..", not absolute.
bool is_plain_name(const std::string& name);

}  // namespace vvtq::data
