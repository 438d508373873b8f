#include "data/packed_labels.h"

#include <algorithm>
#include <cstring>

#include "engine/check.h"

namespace vvtq::data {
namespace {

constexpr const char* kRemedy = "make the labels with `vvtq softlabel`";

/// The bytes from `begin` to `end`, a part at a time: take(part).
template <typename Take>
void read_through(const PositionedFile& file, uint64_t begin, uint64_t end, Take take) {
    constexpr uint64_t kPart = uint64_t{1} << 20;
    Bytes part;
    for (uint64_t at = begin; at < end; at += part.size()) {
        part.resize(std::min(kPart, end - at));
        file.read(at, part.data(), part.size(), "the labels");
        take(part);
    }
}

}  // namespace

PackedLabels::PackedLabels(const std::string& path, const PositionedFile& file, const PackedHeader& raw,
                           const SoftLabelHeader& header)
    : SoftLabels(path, header), file_(file), raw_(raw), layout_(header, raw.version) {}

PackedLabels PackedLabels::open(const std::string& path) {
    const PositionedFile file(path, kRemedy);
    const auto refuse = [&](const auto&... reason) {
        engine::input_error("label file '", printable(path), "' ", reason..., ": ", kRemedy);
    };
    PackedHeader raw{};
    if (file.size() < sizeof raw.magic + sizeof raw.version) refuse("is truncated");
    file.read(0, &raw, std::min<uint64_t>(sizeof raw, file.size()), "the header");
    if (std::memcmp(raw.magic, kPackedMagic, sizeof kPackedMagic) != 0) refuse("is not a vvtq label file");
    if (raw.version != kPackedVersion && raw.version != kUncheckedVersion) {
        refuse("has version ", raw.version, ", this program reads ", kUncheckedVersion, " and ",
               kPackedVersion);
    }
    if (file.size() < sizeof raw) refuse("is truncated");
    if (raw.check != header_check(raw)) refuse("has a damaged header");
    const bool sane =
        raw.type <= static_cast<uint32_t>(LabelType::marginal_renorm) && raw.pictures > 0 &&
        raw.pictures <= file.size() && raw.crops > 0 && raw.crops <= kMostCrops &&
        raw.classes <= kMostClasses &&
        (raw.classes == 0 ? raw.type != static_cast<uint32_t>(LabelType::ori)
                          : label_indices(static_cast<LabelType>(raw.type)) <= static_cast<int>(raw.classes));
    if (!sane) refuse("has a damaged header");
    const SoftLabelHeader header{static_cast<LabelType>(raw.type),
                                 static_cast<int64_t>(raw.pictures),
                                 static_cast<int>(raw.crops),
                                 static_cast<int>(raw.classes),
                                 raw.fingerprint,
                                 raw.seed,
                                 raw.settings};
    const size_t record = PackedLayout(header, raw.version).size;
    const uint64_t held = file.size() - sizeof raw;
    // Sizes are compared by division, so that no product overflows.
    const bool records_fit = held / record >= raw.pictures;
    const uint64_t left = records_fit ? held - record * raw.pictures : 0;
    constexpr size_t kNameEntry = sizeof(uint64_t) + sizeof(uint32_t);
    const bool entries_fit = records_fit && left / kNameEntry >= raw.pictures;
    if (!entries_fit || left - kNameEntry * raw.pictures != raw.text) {
        refuse("is truncated or damaged: ", held, " bytes for ", raw.pictures, " pictures of ", record,
               " bytes and their names");
    }
    PackedLabels labels(path, file, raw, header);
    constexpr uint64_t kValidatedAtOnce = uint64_t{64} << 20;
    if (file.size() <= kValidatedAtOnce) {
        labels.validate();
    } else if (raw.version != kUncheckedVersion) {
        uint32_t check = 0;
        read_through(file, file.size() - left, file.size(),
                     [&](const Bytes& part) { check = checksum(part, check); });
        if (check != raw.names_check) refuse("has a damaged table of names");
    }
    return labels;
}

PackedNames PackedLabels::names() const { return {file_, raw_, layout_.size, path()}; }

void PackedLabels::match(const Dataset& dataset) {
    const bool same_data =
        header_.fingerprint == dataset.fingerprint() || header_.fingerprint == dataset.origin_fingerprint();
    const bool same_classes = header_.classes == 0 || header_.classes == dataset.classes();
    const bool fits = same_classes && header_.pictures <= dataset.size() && same_data;
    if (!fits && !(header_.fingerprint == 0 && same_classes)) {
        engine::input_error("label file '", printable(path()), "' (", header_.pictures, " pictures, ",
                            header_.classes, " classes) belongs to another data set than '",
                            printable(dataset.name()), "' (", dataset.size(), " pictures, ",
                            dataset.classes(),
                            " classes): name its own labels, or make them with `vvtq softlabel`");
    }
    classes_ = dataset.classes();
    require_label_fits(header_.type, classes_);
    dataset_ = &dataset;
    const bool by_number = same_data && header_.pictures == dataset.size();
    names_ = by_number ? nullptr : std::make_shared<const PackedNames>(names());
    if (header_.fingerprint == 0) {  // an early word where no name agrees
        for (const int64_t end : {int64_t{0}, dataset.size() - 1}) {
            PictureLabels labels;
            read(end, labels);
        }
    }
}

std::string PackedLabels::place(int64_t picture) const {
    return engine::concat("label file '", printable(path()), "': picture ", picture);
}

std::string PackedLabels::note() const {
    if (raw_.version != kUncheckedVersion) return "";
    return engine::concat("=> warning: label file '", printable(path()), "' has version ", kUncheckedVersion,
                          ", without checksums: not all damage is noticed. Unpacked and packed again with "
                          "`vvtq softlabel` it has version ",
                          kPackedVersion);
}

int64_t PackedLabels::record_of(int64_t picture) const {
    if (names_ == nullptr) {
        VVTQ_CHECK(picture >= 0 && picture < header_.pictures, "picture ", picture);
        return picture;
    }
    const std::string wanted = label_name(*dataset_, picture);
    const int64_t record = names_->find(wanted);
    if (record < 0) {
        engine::input_error("label file '", printable(path()), "' has no labels of '", printable(wanted),
                            "': ", kRemedy, ", or remove the picture");
    }
    return record;
}

void PackedLabels::refuse_record(int64_t picture, int64_t record) const {
    std::string name;
    try {
        name = names().name(record);
    } catch (const engine::Error&) {
        name = "unknown";
    }
    engine::input_error(place(picture), ": record ", record, " ('", printable(name),
                        "') is damaged, its checksum does not fit: ", kRemedy);
}

void PackedLabels::read(int64_t picture, PictureLabels& labels) const {
    const int64_t record = record_of(picture);
    const auto number = static_cast<uint64_t>(record);
    const auto crops = static_cast<size_t>(header_.crops);
    // All parts begin at multiples of 4 bytes, and memory of a vector at one of 16.
    labels.file.resize(layout_.size);
    uint8_t* from = labels.file.data();
    try {
        file_.read(sizeof(PackedHeader) + layout_.size * number, from, layout_.size, "a record");
    } catch (const engine::Error& error) {
        engine::run_error(place(picture), ", record ", record, ": ", error.what());
    }
    if (layout_.check_at != layout_.size) {
        uint32_t check;
        std::memcpy(&check, from + layout_.check_at, sizeof check);
        if (check != record_check(number, labels.file, layout_)) refuse_record(picture, record);
    }
    labels.coords = {reinterpret_cast<const float*>(from + layout_.coords_at), crops * 4};
    labels.index = {reinterpret_cast<const int32_t*>(from + layout_.index_at), crops * layout_.indices};
    labels.value = {reinterpret_cast<const float*>(from + layout_.value_at), crops * layout_.values};
    labels.flips = {from + layout_.flip_at, crops};
}

void PackedLabels::validate() const {
    PictureLabels labels;
    for (int64_t picture = 0; picture < header_.pictures; ++picture) {
        read(picture, labels);
        for (int each = 0; each < header_.crops; ++each) crop(picture, labels, each);
    }
    names();
}

uint64_t PackedLabels::content_hash() const {
    constexpr uint64_t kHashedWhole = uint64_t{64} << 20;
    constexpr uint64_t kHashedPart = uint64_t{1} << 20;
    const uint64_t size = file_.size();
    Fnv hash;
    hash.add(size);
    const auto add = [&](const Bytes& part) { hash.add(part); };
    read_through(file_, 0, size <= kHashedWhole ? size : kHashedPart, add);
    if (size > kHashedWhole) read_through(file_, size - kHashedPart, size, add);
    return hash.value();
}

}  // namespace vvtq::data
