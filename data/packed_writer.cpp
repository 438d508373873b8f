#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <utility>

#include "data/packed_format.h"
#include "data/packed_labels.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

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

}  // namespace

PackedLabelWriter::PackedLabelWriter(const std::string& path, const SoftLabelHeader& header)
    : path_(path), partial_(path + ".partial"), header_(header) {
    if (header.classes > 0) require_label_fits(header.type, header.classes);
    if (!(header.crops > 0 && header.crops <= static_cast<int>(kMostCrops))) {
        engine::input_error("`crops_per_image` ", header.crops, ": use 1 to ", kMostCrops);
    }
    header_.pictures = 0;
    if (is_directory(path)) {
        engine::input_error("cannot write '", printable(path), "': it is a directory; name a file");
    }
    descriptor_ = ::open(partial_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor_ < 0) {
        engine::input_error("cannot write '", printable(partial_), "' (", std::strerror(errno),
                            "): name a file in a directory that exists and is writable");
    }
    record_.resize(PackedLayout(header_).size);
}

PackedLabelWriter::~PackedLabelWriter() {
    if (descriptor_ < 0) return;
    ::close(descriptor_);
    if (!keep_) ::unlink(partial_.c_str());
}

void PackedLabelWriter::fail(const char* action) const {
    engine::run_error("cannot ", action, " '", printable(partial_), "' (", std::strerror(errno),
                      "): free some space or choose another directory");
}

void PackedLabelWriter::write(const void* data, size_t size) {
    if (!write_all(descriptor_, data, size)) fail("write");
}

// An empty partial file gets its header, which stands for "not finished" by its lack of a checksum.
void PackedLabelWriter::write_header() {
    if (::ftruncate(descriptor_, 0) != 0 || ::lseek(descriptor_, 0, SEEK_SET) != 0) fail("empty");
    const PackedHeader raw = raw_header(header_);
    write(&raw, sizeof raw);
}

int64_t PackedLabelWriter::resume(const Dataset& dataset) {
    VVTQ_CHECK(names_.empty(), names_.size(), " pictures were appended");
    keep_ = true;
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) fail("look at");
    const auto size = static_cast<size_t>(status.st_size);
    const PackedHeader wanted = raw_header(header_);
    PackedHeader raw{};
    if (size < sizeof raw) return 0;
    const auto read_at = [&](void* to, size_t bytes, size_t at) {
        if (::pread(descriptor_, to, bytes, static_cast<off_t>(at)) != static_cast<ssize_t>(bytes))
            fail("read");
    };
    read_at(&raw, sizeof raw, 0);
    if (std::memcmp(&raw, &wanted, sizeof raw) != 0) {
        engine::input_error("'", printable(partial_),
                            "' holds labels begun with other settings: go on with those, or remove the file");
    }
    const size_t records = (size - sizeof raw) / record_.size();
    for (size_t i = 0; i < records; ++i) {
        uint32_t picture = 0;
        read_at(&picture, sizeof picture, sizeof raw + i * record_.size());
        if (picture < next_ || picture >= dataset.size()) break;  // written last before the power went off
        names_.push_back(label_name(dataset, picture));
        next_ = int64_t{picture} + 1;
    }
    const auto kept = static_cast<off_t>(sizeof raw + names_.size() * record_.size());
    if (::ftruncate(descriptor_, kept) != 0 || ::lseek(descriptor_, kept, SEEK_SET) != kept) fail("shorten");
    return next_;
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
    raw.check = header_check(raw);
    if (::lseek(descriptor_, 0, SEEK_SET) != 0) fail("finish");
    write(&raw, sizeof raw);
    if (::fsync(descriptor_) != 0) fail("flush");
    if (::close(std::exchange(descriptor_, -1)) != 0) fail("close");
    if (std::rename(partial_.c_str(), path_.c_str()) != 0) fail("rename");
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
