#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <utility>

#include "data/file_lock.h"
#include "data/packed_labels.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

namespace fs = std::filesystem;

PackedHeader raw_header(const SoftLabelHeader& header) {
    PackedHeader raw{};
    std::memcpy(raw.magic, kPackedMagic, sizeof kPackedMagic);
    raw.version = kPackedVersion;
    raw.type = static_cast<uint32_t>(header.type);
    raw.pictures = static_cast<uint64_t>(header.pictures);
    raw.crops = static_cast<uint32_t>(header.crops);
    raw.classes = static_cast<uint32_t>(header.classes);
    raw.fingerprint = header.fingerprint;
    raw.seed = header.seed;
    raw.settings = header.settings;
    return raw;
}

bool holds_labels(const std::string& path) {
    char magic[sizeof kPackedMagic] = {};
    std::ifstream(path, std::ios::binary).read(magic, sizeof magic);
    return std::memcmp(magic, kPackedMagic, sizeof magic) == 0;
}

// The file that is to be written: where `path` is a link, what it leads to. Only a file of labels, or an
// empty one, is replaced.
std::string target_of(const std::string& path) {
    std::error_code error;
    std::string target = path;
    if (fs::is_symlink(path, error)) {
        target = fs::canonical(path, error).string();
        if (error) {
            engine::input_error("cannot write '", printable(path), "' (", error.message(),
                                "): it is a link; name the file itself");
        }
    }
    const fs::file_status status = fs::status(target, error);
    if (fs::is_directory(status)) {
        engine::input_error("cannot write '", printable(path), "': it is a directory; name a file");
    }
    if (fs::exists(status) && !fs::is_regular_file(status)) {
        engine::input_error("cannot write '", printable(path),
                            "': it is a device, a pipe or a socket; name a file");
    }
    if (fs::exists(status) && fs::file_size(target, error) > 0 && !holds_labels(target)) {
        engine::input_error("cannot write '", printable(path),
                            "': it is there already, and holds no labels; name another file");
    }
    return target;
}

template <typename Values>
std::span<const uint8_t> as_bytes(const Values& values) {
    return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(values[0])};
}

bool same_file(const struct stat& a, const struct stat& b) {
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

}  // namespace

PackedLabelWriter::PackedLabelWriter(const std::string& path, const SoftLabelHeader& header)
    : path_(target_of(path)), partial_(path_ + ".partial"), header_(header) {
    if (header.classes > 0) require_label_fits(header.type, header.classes);
    if (!(header.crops > 0 && header.crops <= static_cast<int>(kMostCrops))) {
        engine::input_error("`crops_per_image` ", header.crops, ": use 1 to ", kMostCrops);
    }
    header_.pictures = 0;
    open_partial();
    record_.resize(PackedLayout(header_).size);
}

// The partial file is its own lock. Between its opening and its locking another process may have finished and
// renamed it, or removed it: what is locked then is not the partial file any more, and the next one is tried.
void PackedLabelWriter::open_partial() {
    for (;;) {
        descriptor_ = ::open(partial_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
        struct stat opened {
        }, named{};
        const bool looked = descriptor_ >= 0 && ::fstat(descriptor_, &opened) == 0;
        const int reason = errno;
        const auto refuse = [&](const auto&... text) {
            if (descriptor_ >= 0) ::close(descriptor_);
            engine::input_error("cannot write '", printable(partial_), "'", text...);
        };
        if (!looked) {
            refuse(" (", std::strerror(reason), "): name a file in a directory that exists and is writable");
        }
        if (!S_ISREG(opened.st_mode)) refuse(": something else than a file has this name; remove it");
        try {
            lock_descriptor(descriptor_, path_);
        } catch (...) {
            ::close(descriptor_);
            throw;
        }
        if (::stat(partial_.c_str(), &named) == 0 && same_file(opened, named)) return;
        ::close(descriptor_);
    }
}

PackedLabelWriter::~PackedLabelWriter() {
    if (descriptor_ < 0) return;
    const bool empty = size() == 0;
    if (empty || !keep_) ::unlink(partial_.c_str());  // while it is locked
    ::close(descriptor_);
}

void PackedLabelWriter::fail(const char* action) const {
    engine::run_error("cannot ", action, " '", printable(partial_), "' (", std::strerror(errno),
                      "): free some space or choose another directory");
}

void PackedLabelWriter::write(const void* data, size_t size) {
    if (!write_all(descriptor_, data, size)) fail("write");
}

void PackedLabelWriter::read_at(uint64_t at, void* to, size_t size) const {
    if (::pread(descriptor_, to, size, static_cast<off_t>(at)) != static_cast<ssize_t>(size)) fail("read");
}

uint64_t PackedLabelWriter::size() const {
    struct stat status {};
    return ::fstat(descriptor_, &status) == 0 ? static_cast<uint64_t>(status.st_size) : 0;
}

// An empty partial file gets its header, which stands for "not finished" by its lack of a checksum.
void PackedLabelWriter::write_header() {
    PackedHeader held{};
    if (!keep_ && size() >= sizeof held) {
        read_at(0, &held, sizeof held);
        if (std::memcmp(held.magic, kPackedMagic, sizeof kPackedMagic) == 0 && held.settings != 0) {
            keep_ = true;
            engine::input_error(
                "'", printable(partial_),
                "' holds labels of a run that was stopped: go on with that run, or remove the "
                "file");
        }
    }
    if (::ftruncate(descriptor_, 0) != 0 || ::lseek(descriptor_, 0, SEEK_SET) != 0) fail("empty");
    const PackedHeader raw = raw_header(header_);
    write(&raw, sizeof raw);
}

Resumed PackedLabelWriter::resume(const Dataset& dataset, const Stop& stop) {
    VVTQ_CHECK(names_.empty(), names_.size(), " pictures were appended");
    keep_ = true;
    Resumed resumed;
    const PackedHeader wanted = raw_header(header_);
    PackedHeader raw{};
    const uint64_t held = size();
    if (held < sizeof raw) return resumed;
    read_at(0, &raw, sizeof raw);
    if (std::memcmp(&raw, &wanted, sizeof raw) != 0) {
        engine::input_error(
            "'", printable(partial_),
            "' holds labels begun with other settings or by another version, or is damaged: go "
            "on with those settings, or remove the file");
    }
    const PackedLayout layout(header_);
    const uint64_t records = (held - sizeof raw) / layout.size;
    for (uint64_t i = 0; i < records; ++i) {
        uint32_t picture = 0, check = 0;
        if (stop()) {
            resumed.stopped = true;
            return resumed;
        }
        read_at(sizeof raw + i * layout.size, record_.data(), layout.size);
        std::memcpy(&picture, record_.data(), sizeof picture);
        std::memcpy(&check, record_.data() + layout.check_at, sizeof check);
        if (check != record_check(i, record_, layout) || picture < next_ || picture >= dataset.size()) {
            // Written last before the power went off, or changed since.
            resumed.note = engine::concat("=> warning: '", printable(partial_), "': record ", i, " of ",
                                          records, ", picture ", next_,
                                          " or later, is damaged: labels are made again from there on");
            break;
        }
        names_.push_back(label_name(dataset, picture));
        next_ = int64_t{picture} + 1;
    }
    const auto kept = static_cast<off_t>(sizeof raw + names_.size() * layout.size);
    if (::ftruncate(descriptor_, kept) != 0 || ::lseek(descriptor_, kept, SEEK_SET) != kept) fail("shorten");
    resumed.next = next_;
    return resumed;
}

void PackedLabelWriter::append(int64_t picture, const std::string& name, const PictureLabels& labels) {
    const PackedLayout layout(header_);
    const auto crops = static_cast<size_t>(header_.crops);
    VVTQ_CHECK(labels.coords.size() == crops * 4 && labels.flips.size() == crops &&
                   labels.index.size() == crops * layout.indices &&
                   labels.value.size() == crops * layout.values && picture >= next_ && picture < UINT32_MAX,
               labels.coords.size(), " coordinates, ", labels.flips.size(), " flips, ", labels.index.size(),
               " indices, ", labels.value.size(), " values, picture ", picture, " after ", next_);
    if (names_.empty()) write_header();
    const auto number = static_cast<uint32_t>(picture);
    std::memcpy(record_.data(), &number, sizeof number);
    const auto put = [&](size_t at, const auto& values) {
        if (!values.empty()) std::memcpy(record_.data() + at, values.data(), values.size_bytes());
    };
    put(layout.coords_at, labels.coords);
    put(layout.index_at, labels.index);
    put(layout.value_at, labels.value);
    for (size_t m = 0; m < crops; ++m) record_[layout.flip_at + m] = labels.flips[m] != 0 ? 1 : 0;
    const uint32_t check = record_check(names_.size(), record_, layout);
    std::memcpy(record_.data() + layout.check_at, &check, sizeof check);
    write(record_.data(), record_.size());
    names_.push_back(name);
    next_ = picture + 1;
}

void PackedLabelWriter::finish() {
    VVTQ_CHECK(!names_.empty(), "no picture was labelled");
    std::vector<uint64_t> ends;
    std::vector<uint32_t> order(names_.size());
    std::string text;
    for (const std::string& name : names_) {
        text += name;
        ends.push_back(text.size());
    }
    std::iota(order.begin(), order.end(), 0U);
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return names_[a] < names_[b]; });
    for (size_t i = 1; i < order.size(); ++i) {
        if (names_[order[i - 1]] == names_[order[i]]) {
            engine::input_error("two pictures are called '", printable(names_[order[i]]),
                                "' up to their first dot: rename one of them");
        }
    }
    write(ends.data(), ends.size() * sizeof(uint64_t));
    write(order.data(), order.size() * sizeof(uint32_t));
    write(text.data(), text.size());
    header_.pictures = static_cast<int64_t>(names_.size());
    PackedHeader raw = raw_header(header_);
    raw.text = text.size();
    raw.names_check = checksum(as_bytes(text), checksum(as_bytes(order), checksum(as_bytes(ends))));
    raw.check = header_check(raw);
    if (::lseek(descriptor_, 0, SEEK_SET) != 0) fail("finish");
    write(&raw, sizeof raw);
    if (::fsync(descriptor_) != 0) fail("flush");
    if (std::rename(partial_.c_str(), path_.c_str()) != 0) fail("rename");  // while it is locked
    if (::close(std::exchange(descriptor_, -1)) != 0) fail("close");
    flush_directory(fs::path(path_).parent_path().string());
}

void pack_labels(LabelType type, std::span<const Coords> coords, std::span<const uint8_t> flips,
                 std::span<const float> p, PictureLabels& labels) {
    const size_t crops = coords.size();
    VVTQ_CHECK(crops > 0 && flips.size() == crops && p.size() % crops == 0, crops, " crops, ", flips.size(),
               " flips, ", p.size(), " probabilities");
    const size_t classes = p.size() / crops;
    const auto indices = static_cast<size_t>(label_indices(type));
    const auto values = static_cast<size_t>(label_values(type, static_cast<int>(classes)));
    labels.own_coords.resize(crops * 4);
    labels.own_flips.assign(flips.begin(), flips.end());
    labels.own_index.resize(crops * indices);
    labels.own_value.resize(crops * values);
    for (size_t m = 0; m < crops; ++m) {
        for (size_t i = 0; i < 4; ++i) labels.own_coords[m * 4 + i] = static_cast<float>(coords[m][i]);
        pack_label<float>(type, p.subspan(m * classes, classes),
                          std::span(labels.own_index).subspan(m * indices, indices),
                          std::span(labels.own_value).subspan(m * values, values));
    }
    labels.coords = labels.own_coords;
    labels.flips = labels.own_flips;
    labels.index = labels.own_index;
    labels.value = labels.own_value;
}

}  // namespace vvtq::data
