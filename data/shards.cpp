#include "data/shards.h"

#include <filesystem>

#include "engine/check.h"

namespace vvtq::data {
namespace {

constexpr const char* kRemedy = "copy it again, or make the folder anew with `vvtq pack`";

}  // namespace

bool Shards::at(const std::string& folder) {
    std::error_code ignored;
    return std::filesystem::exists(folder + "/" + kShardIndex, ignored);
}

Shards::Shards(const std::string& folder) : folder_(folder) {
    const std::string path = folder + "/" + kShardIndex;
    index_ = read_shard_index(read_file(path, kRemedy), path);
    for (uint32_t shard = 0; shard < index_.shard_bytes.size(); ++shard) {
        archives_.emplace_back(folder + "/" + ShardIndex::shard_name(shard), kRemedy);
        require_length(shard);
    }
}

void Shards::require_length(uint32_t shard) const {
    const uint64_t length = archives_[shard].size();
    if (length == index_.shard_bytes[shard]) return;
    std::string cut;
    for (const int64_t picture : index_.in_place()) {
        const ShardRecord& record = index_.records[static_cast<size_t>(picture)];
        if (record.shard != shard || record.at + record.size <= length) continue;
        cut = engine::concat("; it ends before the end of ", index_.member(picture), " (",
                             printable(index_.files[static_cast<size_t>(picture)]), ")");
        break;
    }
    engine::input_error("shard '", printable(folder_ + "/" + ShardIndex::shard_name(shard)), "' has ", length,
                        " bytes, not ", index_.shard_bytes[shard], cut, ": ", kRemedy);
}

std::string Shards::place(int64_t picture) const {
    const auto i = static_cast<size_t>(picture);
    return engine::concat(folder_, "/", ShardIndex::shard_name(index_.records.at(i).shard), ": ",
                          index_.member(picture), " (", index_.files[i], ")");
}

const PositionedFile& Shards::archive(int64_t picture) const {
    return archives_[index_.records.at(static_cast<size_t>(picture)).shard];
}

void Shards::require_whole(int64_t picture, std::span<const uint8_t> bytes) const {
    if (checksum(bytes) == index_.records.at(static_cast<size_t>(picture)).check) return;
    engine::input_error("shard '", printable(place(picture)), "' is damaged: ", kRemedy);
}

void Shards::open(int64_t picture, PictureReader& reader) const {
    const ShardRecord& record = index_.records.at(static_cast<size_t>(picture));
    reader.open_with(place(picture), record.size, [&](std::span<uint8_t> bytes) {
        archive(picture).read(record.at, bytes.data(), bytes.size(), index_.member(picture));
        require_whole(picture, bytes);
    });
}

}  // namespace vvtq::data
