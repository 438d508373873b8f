// shards: the pictures of a packed folder, read by their places from its archives.
#pragma once

#include <string>
#include <vector>

#include "data/picture_reader.h"
#include "data/positioned_file.h"
#include "data/shard_index.h"

namespace vvtq::data {

/// An open folder of shards. read() and open() may be called from several threads.
class Shards {
  public:
    /// Whether `folder` holds an index. Archives without one are not read: the index has the names and
    /// checksums.
    static bool at(const std::string& folder);

    /// Reads the index and opens the archives. Errors: input_error where the index is damaged or hostile
    /// (read_shard_index), or an archive is missing or has another length than the index says; it names the
    /// first member that is cut.
    explicit Shards(const std::string& folder);

    const ShardIndex& index() const { return index_; }
    /// For messages: "DIR/train/shard-000001.tar: 000000012.jpg (cat/0001.jpg)".
    std::string place(int64_t picture) const;
    /// The archive a picture lies in.
    const PositionedFile& archive(int64_t picture) const;
    /// Throws input_error where `bytes` are not those that were packed.
    void require_whole(int64_t picture, std::span<const uint8_t> bytes) const;
    /// Opens a picture in `reader`. Errors: as of require_whole and PictureReader::open_bytes.
    void open(int64_t picture, PictureReader& reader) const;

  private:
    void require_length(uint32_t shard) const;

    std::string folder_;
    ShardIndex index_;
    std::vector<PositionedFile> archives_;
};

}  // namespace vvtq::data
