#include "data/shard_index.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "data/tar_blocks.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

static_assert(std::endian::native == std::endian::little, "index files are little-endian");

constexpr char kMagic[8] = {'V', 'V', 'T', 'Q', 'S', 'H', 'R', 'D'};
constexpr uint32_t kVersion = 1;
constexpr const char* kEndings[] = {"jpg", "png", "bmp", "ppm", "pgm"};
constexpr uint64_t kLargestMember = uint64_t{1} << 30;  // as PictureReader reads

void append(Bytes& bytes, const void* data, size_t size) {
    const size_t at = bytes.size();
    bytes.resize(at + size);
    if (size > 0) std::memcpy(bytes.data() + at, data, size);
}

// Reads the parts behind the header, of which it was found that they fill the file.
class Parts {
  public:
    explicit Parts(std::span<const uint8_t> bytes) : bytes_(bytes) {}
    template <typename T>
    void take(std::vector<T>& values, size_t count) {
        values.resize(count);
        std::memcpy(values.data(), bytes_.data() + at_, count * sizeof(T));
        at_ += count * sizeof(T);
    }
    // False where no zero byte follows.
    bool take(std::string& text) {
        const auto* begin = bytes_.data() + at_;
        const auto* end = std::find(begin, bytes_.data() + bytes_.size(), uint8_t{0});
        if (end == bytes_.data() + bytes_.size()) return false;
        text.assign(begin, end);
        at_ += text.size() + 1;
        return true;
    }
    bool at_end() const { return at_ == bytes_.size(); }

  private:
    std::span<const uint8_t> bytes_;
    size_t at_ = 0;
};

}  // namespace

std::string ShardIndex::key(int64_t picture) {
    char text[32];
    std::snprintf(text, sizeof text, "%09lld", static_cast<long long>(picture));
    return text;
}

std::string ShardIndex::member(int64_t picture) const {
    return key(picture) + "." + kEndings[records.at(static_cast<size_t>(picture)).type];
}

std::string ShardIndex::shard_name(uint32_t shard) {
    char text[32];
    std::snprintf(text, sizeof text, "shard-%06u.tar", shard);
    return text;
}

std::vector<int64_t> ShardIndex::in_place() const {
    std::vector<int64_t> order(records.size());
    std::iota(order.begin(), order.end(), int64_t{0});
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        const ShardRecord &x = records[static_cast<size_t>(a)], &y = records[static_cast<size_t>(b)];
        return x.shard != y.shard ? x.shard < y.shard : x.at < y.at;
    });
    return order;
}

Bytes write_shard_index(const ShardIndex& index) {
    ShardIndexHeader header{};
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    header.version = kVersion;
    header.classes = static_cast<uint32_t>(index.classes.size());
    header.pictures = index.records.size();
    header.shards = static_cast<uint32_t>(index.shard_bytes.size());
    header.resize = static_cast<uint32_t>(index.resize);
    header.quality = static_cast<uint32_t>(index.quality);
    header.reencoded = static_cast<uint64_t>(index.reencoded);
    header.origin = index.origin;
    Bytes bytes;
    append(bytes, &header, sizeof header);
    append(bytes, index.shard_bytes.data(), index.shard_bytes.size() * sizeof(uint64_t));
    append(bytes, index.records.data(), index.records.size() * sizeof(ShardRecord));
    const size_t names_at = bytes.size();
    for (const auto* names : {&index.classes, &index.files}) {
        for (const std::string& name : *names) append(bytes, name.c_str(), name.size() + 1);
    }
    header.names = bytes.size() - names_at;
    header.body_check = checksum(std::span(bytes).subspan(sizeof header));
    header.check = header_check(header);
    std::memcpy(bytes.data(), &header, sizeof header);
    return bytes;
}

ShardIndex read_shard_index(const Bytes& bytes, const std::string& path) {
    const auto refuse = [&](const auto&... text) {
        engine::input_error("index '", printable(path), "' ", text...,
                            ": copy the whole folder again, or make it anew with `vvtq pack`");
    };
    ShardIndexHeader header;
    if (bytes.size() < sizeof header) refuse("is cut off");
    std::memcpy(&header, bytes.data(), sizeof header);
    if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) refuse("is no index of shards");
    if (header.version != kVersion) refuse("has version ", header.version, ", not ", kVersion);
    if (header.check != header_check(header)) refuse("has a damaged header");
    const std::span body = std::span(bytes).subspan(sizeof header);
    const uint64_t left = body.size();  // each part is bounded by it, so their sum does not overflow
    if (header.pictures > left / sizeof(ShardRecord) || header.shards > left / sizeof(uint64_t) ||
        header.names > left ||
        header.pictures * sizeof(ShardRecord) + header.shards * sizeof(uint64_t) + header.names != left) {
        refuse("has ", bytes.size(), " bytes, which do not fit its ", header.pictures, " pictures");
    }
    if (checksum(body) != header.body_check) refuse("is damaged");
    if (header.pictures == 0 || header.classes == 0) refuse("names no pictures");
    if (header.classes > header.names) refuse("names too few classes");
    ShardIndex index;
    index.resize = static_cast<int>(header.resize);
    index.quality = static_cast<int>(header.quality);
    index.reencoded = static_cast<int64_t>(header.reencoded);
    index.origin = header.origin;
    Parts parts(body);
    parts.take(index.shard_bytes, header.shards);
    parts.take(index.records, header.pictures);
    const auto take_names = [&](std::vector<std::string>& names, size_t count) {
        names.resize(count);
        for (std::string& name : names) {
            if (!parts.take(name)) refuse("has too few names");
            if (!is_plain_name(name)) refuse("names '", printable(name), "', which no picture can be called");
        }
    };
    take_names(index.classes, header.classes);
    take_names(index.files, header.pictures);
    if (!parts.at_end()) refuse("has too many names");
    for (size_t i = 0; i < index.records.size(); ++i) {
        const ShardRecord& record = index.records[i];
        const std::string& file = index.files[i];
        if (record.label >= header.classes || !file.starts_with(index.classes[record.label] + "/") ||
            index.classes[record.label].find('/') != std::string::npos) {
            refuse("gives '", printable(file), "' a class that is not its folder");
        }
        if (record.type >= std::size(kEndings) || record.shard >= header.shards ||
            record.size > kLargestMember || record.at % kTarBlock != 0 || record.at < kTarBlock ||
            record.at > index.shard_bytes[record.shard] ||
            record.size > index.shard_bytes[record.shard] - record.at) {
            refuse("places '", printable(file), "' outside of the archives");
        }
    }
    const std::vector<int64_t> order = index.in_place();
    for (size_t i = 1; i < order.size(); ++i) {
        const auto a = static_cast<size_t>(order[i - 1]), b = static_cast<size_t>(order[i]);
        const ShardRecord &before = index.records[a], &after = index.records[b];
        if (before.shard == after.shard && after.at - before.at < before.size + kTarBlock) {
            refuse("places '", printable(index.files[a]), "' and '", printable(index.files[b]),
                   "' upon one another");
        }
    }
    return index;
}

bool is_plain_name(const std::string& name) {
    if (name.empty() || name.find('\0') != std::string::npos) return false;
    const std::filesystem::path path(name);
    for (const std::filesystem::path& part : path) {
        if (part.empty() || part == "." || part == "..") return false;
    }
    return path.is_relative() && path.lexically_normal().string() == name;
}

}  // namespace vvtq::data
