#include "data/shard_pack.h"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "data/folder.h"
#include "data/jpeg_encode.h"
#include "data/new_folder.h"
#include "data/resample.h"
#include "data/shards.h"
#include "data/tar_blocks.h"
#include "engine/check.h"
#include "engine/random.h"
#include "engine/threads.h"

namespace vvtq::data {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSplits[] = {"train", "val", "test"};

/// The splits that `dir` has.
std::vector<std::string> splits_of(const std::string& dir) {
    std::vector<std::string> splits;
    for (const char* split : kSplits) {
        if (is_directory(dir + "/" + split)) splits.emplace_back(split);
    }
    if (splits.empty()) {
        engine::input_error("no train, val or test folder in '", printable(dir), "': ", kFolderLayout);
    }
    return splits;
}

MemberType type_of(std::span<const uint8_t> bytes) {
    if (is_jpeg(bytes)) return MemberType::jpg;
    if (is_png(bytes)) return MemberType::png;
    if (is_bmp(bytes)) return MemberType::bmp;
    return bytes[1] == '6' ? MemberType::ppm : MemberType::pgm;
}

/// What of a picture goes into an archive.
struct Member {
    Bytes bytes;
    bool reencoded = false;
    std::exception_ptr error;
};

void make_member(const std::string& path, const PackOptions& options, Member& member) {
    PictureReader reader;
    reader.open_file(path);
    const int height = reader.height(), width = reader.width(), shorter = std::min(height, width);
    member.reencoded = options.resize > 0 && shorter > options.resize;
    if (!member.reencoded) {
        member.bytes = reader.take_file();
        return;
    }
    const auto longer = static_cast<int>(int64_t{options.resize} * std::max(height, width) / shorter);
    Image small{height <= width ? options.resize : longer, height <= width ? longer : options.resize, {}};
    const Box all{0, 0, height, width};
    Resampler resampler;
    resampler.resize(reader.decode(all, Resampler::memory(all, longer, all)),
                     {all, small.height, small.width, {0, 0, small.height, small.width}, Filter::bicubic},
                     small.rgb);
    member.bytes = encode_jpeg(small, options.quality);
}

/// Writes the members of a split into archives of limited size.
class ShardWriter {
  public:
    ShardWriter(std::string folder, uint64_t most, ShardIndex& index)
        : folder_(std::move(folder)), most_(most), index_(index) {}

    void add(int64_t picture, const Bytes& bytes) {
        ShardRecord& record = index_.records[static_cast<size_t>(picture)];
        record.size = bytes.size();
        record.check = checksum(bytes);
        record.type = static_cast<uint32_t>(type_of(bytes));
        const Bytes before = tar_header(index_.member(picture), bytes.size());
        const Bytes after = trailer_of(index_, picture);
        if (file_ != nullptr && at_ + before.size() + bytes.size() + after.size() + kTarEnd > most_) close();
        if (file_ == nullptr) {
            const auto number = static_cast<uint32_t>(index_.shard_bytes.size());
            file_ = std::make_unique<AtomicFile>(folder_ + "/" + ShardIndex::shard_name(number));
        }
        record.shard = static_cast<uint32_t>(index_.shard_bytes.size());
        record.at = at_ + before.size();
        for (const Bytes* part : {&before, &bytes, &after}) write(*part);
    }

    void close() {
        if (file_ == nullptr) return;
        write(Bytes(kTarEnd));
        file_->commit(false);
        file_.reset();
        index_.shard_bytes.push_back(at_);
        at_ = 0;
    }

    /// What stands behind a picture's bytes: zeros, and the member with its class.
    static Bytes trailer_of(const ShardIndex& index, int64_t picture) {
        const ShardRecord& record = index.records[static_cast<size_t>(picture)];
        Bytes bytes(tar_padding(record.size));
        const std::string text = std::to_string(record.label);
        const Bytes header = tar_header(ShardIndex::key(picture) + ".cls", text.size());
        bytes.insert(bytes.end(), header.begin(), header.end());
        bytes.insert(bytes.end(), text.begin(), text.end());
        bytes.resize(bytes.size() + tar_padding(text.size()));
        return bytes;
    }

  private:
    void write(const Bytes& bytes) {
        file_->write(bytes.data(), bytes.size());
        at_ += bytes.size();
    }

    std::string folder_;
    uint64_t most_;
    ShardIndex& index_;
    std::unique_ptr<AtomicFile> file_;
    uint64_t at_ = 0;
};

void write_file(const std::string& path, std::span<const uint8_t> bytes) {
    AtomicFile file(path);
    file.write(bytes.data(), bytes.size());
    file.commit(false);
}

/// For people and other programs: what the archives hold.
void write_description(const std::string& folder, const ShardIndex& index) {
    nlohmann::ordered_json about = {{"format", "tar shards, WebDataset's layout: KEY.jpg, KEY.cls"},
                                    {"pictures", index.records.size()},
                                    {"shards", index.shard_bytes.size()},
                                    {"reencoded", index.reencoded}};
    if (index.resize > 0) {
        about["resize"] = index.resize;
        about["filter"] = "bicubic";
        about["jpeg_quality"] = index.quality;
    }
    about["classes"] = index.classes;
    const std::string text = about.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    write_file(folder + "/dataset.json",
               std::span(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
}

/// False where it was stopped.
bool pack_split(const std::string& from, const std::string& split, Listing listing, const std::string& folder,
                const PackOptions& options, Packed& done, const PackProgress& stops) {
    ShardIndex index;
    index.resize = options.resize;
    index.quality = options.resize > 0 ? options.quality : 0;
    index.origin = fingerprint_of(split, listing);
    index.classes = listing.classes;
    index.files = std::move(listing.files);
    index.records.resize(index.files.size());
    for (size_t i = 0; i < index.records.size(); ++i) {
        index.records[i].label = static_cast<uint32_t>(listing.labels[i]);
    }
    std::vector<int64_t> order(index.files.size());
    std::iota(order.begin(), order.end(), int64_t{0});
    engine::Random random(engine::mix_key({order.size()}));  // readers that go through a tar see all classes
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);

    ShardWriter writer(folder, options.shard_bytes, index);
    std::vector<Member> members(static_cast<size_t>(options.resize > 0 ? 4 * engine::threads() : 1));
    for (size_t first = 0; first < order.size(); first += members.size()) {
        if (stops(done)) return false;
        const size_t count = std::min(members.size(), order.size() - first);
        engine::parallel_for(static_cast<int64_t>(count), [&](int64_t i) {
            Member& member = members[static_cast<size_t>(i)];
            member.error = nullptr;
            try {
                const auto picture = static_cast<size_t>(order[first + static_cast<size_t>(i)]);
                make_member(from + "/" + index.files[picture], options, member);
            } catch (...) {
                member.error = std::current_exception();
            }
        });
        for (size_t i = 0; i < count; ++i) {
            if (members[i].error != nullptr) std::rethrow_exception(members[i].error);
            writer.add(order[first + i], members[i].bytes);
            index.reencoded += members[i].reencoded ? 1 : 0;
            done.reencoded += members[i].reencoded ? 1 : 0;
            done.bytes += members[i].bytes.size();
            ++done.pictures;
        }
    }
    writer.close();
    done.shards += static_cast<int64_t>(index.shard_bytes.size());
    write_description(folder, index);
    write_file(folder + "/" + kShardIndex, write_shard_index(index));
    return true;
}

/// The bytes of `picture`, which stands at `at` of its archive, header first; moves `at` behind it.
Bytes checked_member(const Shards& shards, int64_t picture, uint64_t& at) {
    const ShardIndex& index = shards.index();
    const ShardRecord& record = index.records[static_cast<size_t>(picture)];
    const Bytes before = tar_header(index.member(picture), record.size);
    const Bytes after = ShardWriter::trailer_of(index, picture);
    const uint64_t end = record.at + record.size + after.size();
    const uint64_t length = index.shard_bytes[record.shard];
    const auto refuse = [&] {
        engine::input_error("shard '", printable(shards.place(picture)),
                            "' is damaged: copy it again, or make the folder anew with `vvtq pack`");
    };
    if (record.at != at + before.size() || end + kTarEnd > length) refuse();
    Bytes bytes(before.size() + record.size + after.size());
    shards.archive(picture).read(at, bytes.data(), bytes.size(), index.member(picture));
    const auto first = bytes.begin() + static_cast<std::ptrdiff_t>(before.size());
    const auto last = first + static_cast<std::ptrdiff_t>(record.size);
    if (!std::equal(before.begin(), before.end(), bytes.begin()) ||
        !std::equal(after.begin(), after.end(), last)) {
        refuse();
    }
    Bytes picture_bytes(first, last);
    shards.require_whole(picture, picture_bytes);
    at = end;
    return picture_bytes;
}

/// The zeros at the end of the archive of `last`, its last picture.
void check_end(const Shards& shards, int64_t last, uint64_t at) {
    const uint32_t shard = shards.index().records[static_cast<size_t>(last)].shard;
    Bytes end(kTarEnd);
    const bool fits = at + kTarEnd == shards.index().shard_bytes[shard];
    if (fits) shards.archive(last).read(at, end.data(), end.size(), "the end");
    if (!fits || std::any_of(end.begin(), end.end(), [](uint8_t byte) { return byte != 0; })) {
        engine::input_error("shard '", printable(shards.place(last)),
                            "' is damaged behind this member: copy ",
                            "it again, or make the folder anew with `vvtq pack`");
    }
}

/// False where it was stopped.
bool unpack_split(const Shards& shards, const std::string& folder, Packed& done, const PackProgress& stops) {
    const ShardIndex& index = shards.index();
    const std::vector<int64_t> order = index.in_place();
    uint64_t at = 0;
    for (size_t i = 0; i < order.size(); ++i) {
        if (stops(done)) return false;
        const int64_t picture = order[i];
        const Bytes bytes = checked_member(shards, picture, at);
        const std::string path = folder + "/" + index.files[static_cast<size_t>(picture)];
        std::error_code ignored;  // told of by the file that cannot be made then
        fs::create_directories(fs::path(path).parent_path(), ignored);
        if (fs::exists(path, ignored)) {
            engine::input_error("shard '", printable(shards.place(picture)),
                                "' holds a picture twice: ", "make the folder anew with `vvtq pack`");
        }
        write_file(path, bytes);
        done.bytes += bytes.size();
        ++done.pictures;
        const auto shard_of = [&](int64_t p) { return index.records[static_cast<size_t>(p)].shard; };
        if (i + 1 == order.size() || shard_of(order[i + 1]) != shard_of(picture)) {
            check_end(shards, picture, at);
            at = 0;
        }
    }
    done.shards += static_cast<int64_t>(index.shard_bytes.size());
    return true;
}

}  // namespace

Packed pack_folder(const std::string& dir, const std::string& out, const PackOptions& options,
                   const PackProgress& stops) {
    const std::vector<std::string> splits = splits_of(dir);
    std::vector<Listing> listings;
    Packed done;
    for (const std::string& split : splits) {
        if (Shards::at(dir + "/" + split)) {
            engine::input_error("'", printable(dir + "/" + split),
                                "' holds shards already: name the folder that they were made of");
        }
        listings.push_back(list_pictures(dir + "/" + split));
        done.of += static_cast<int64_t>(listings.back().files.size());
    }
    NewFolder folder(out);
    for (size_t i = 0; i < splits.size(); ++i) {
        const std::string to = folder.path() + "/" + splits[i];
        std::error_code ignored;  // told of by the file that cannot be made then
        fs::create_directory(to, ignored);
        if (!pack_split(dir + "/" + splits[i], splits[i], std::move(listings[i]), to, options, done, stops)) {
            return done;
        }
    }
    folder.commit();
    return done;
}

Packed unpack_folder(const std::string& dir, const std::string& out, const PackProgress& stops) {
    const std::vector<std::string> splits = splits_of(dir);
    std::vector<std::unique_ptr<const Shards>> all;
    Packed done;
    for (const std::string& split : splits) {
        all.push_back(std::make_unique<const Shards>(dir + "/" + split));
        done.of += static_cast<int64_t>(all.back()->index().files.size());
    }
    NewFolder folder(out);
    for (size_t i = 0; i < splits.size(); ++i) {
        if (!unpack_split(*all[i], folder.path() + "/" + splits[i], done, stops)) return done;
    }
    folder.commit();
    return done;
}

}  // namespace vvtq::data
