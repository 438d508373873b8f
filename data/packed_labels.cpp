#include "data/packed_labels.h"

#include <algorithm>
#include <cstring>

#include "data/packed_format.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

constexpr const char* kRemedy = "make the labels with `vvtq softlabel`";

template <typename T>
T number_at(const uint8_t* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

}  // namespace

PackedLabels::PackedLabels(const std::string& path, MappedFile file, const SoftLabelHeader& header)
    : SoftLabels(path, header), file_(std::move(file)) {}

PackedLabels PackedLabels::open(const std::string& path) {
    MappedFile file(path, kRemedy);
    const auto bytes = file.bytes();
    const auto refuse = [&](const auto&... reason) {
        engine::input_error("label file '", printable(path), "' ", reason..., ": ", kRemedy);
    };
    PackedHeader raw{};
    if (bytes.size() < sizeof raw.magic + sizeof raw.version) refuse("is truncated");
    std::memcpy(&raw, bytes.data(), std::min(sizeof raw, bytes.size()));
    if (std::memcmp(raw.magic, kPackedMagic, sizeof kPackedMagic) != 0) refuse("is not a vvtq label file");
    if (raw.version != kPackedVersion) {
        refuse("has version ", raw.version, ", this program reads ", kPackedVersion);
    }
    if (bytes.size() < sizeof raw) refuse("is truncated");
    if (raw.check != header_check(raw)) refuse("has a damaged header");
    const bool sane =
        raw.type <= static_cast<uint32_t>(LabelType::marginal_renorm) && raw.pictures > 0 &&
        raw.pictures <= bytes.size() && raw.crops > 0 && raw.crops <= kMostCrops &&
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
    const size_t record = PackedLayout(header).size;
    const size_t held = bytes.size() - sizeof raw;
    // Sizes are compared by division, so that no product overflows.
    const bool records_fit = held / record >= raw.pictures;
    const size_t left = records_fit ? held - record * raw.pictures : 0;
    constexpr size_t kNameEntry = sizeof(uint64_t) + sizeof(uint32_t);
    const bool entries_fit = records_fit && left / kNameEntry >= raw.pictures;
    if (!entries_fit || left - kNameEntry * raw.pictures != raw.text) {
        refuse("is truncated or damaged: ", held, " bytes for ", raw.pictures, " pictures of ", record,
               " bytes and their names");
    }
    PackedLabels labels(path, std::move(file), header);
    constexpr size_t kValidatedAtOnce = size_t{64} << 20;
    if (bytes.size() <= kValidatedAtOnce) labels.validate();
    return labels;
}

std::string_view PackedLabels::name(int64_t record) const {
    VVTQ_CHECK(record >= 0 && record < header_.pictures, record);
    const auto count = static_cast<size_t>(header_.pictures);
    const auto at = static_cast<size_t>(record);
    const uint8_t* ends = file_.bytes().data() + sizeof(PackedHeader) + PackedLayout(header_).size * count;
    const uint8_t* text = ends + (sizeof(uint64_t) + sizeof(uint32_t)) * count;
    const uint64_t text_size = file_.bytes().data() + file_.bytes().size() - text;
    const auto begin = at == 0 ? 0 : number_at<uint64_t>(ends + (at - 1) * sizeof(uint64_t));
    const auto end = number_at<uint64_t>(ends + at * sizeof(uint64_t));
    if (!(begin <= end && end <= text_size)) {
        engine::input_error("label file '", printable(path()), "' has a damaged table of names: ", kRemedy);
    }
    return {reinterpret_cast<const char*>(text + begin), end - begin};
}

int64_t PackedLabels::find(std::string_view wanted) const {
    const auto count = static_cast<size_t>(header_.pictures);
    const uint8_t* order =
        file_.bytes().data() + sizeof(PackedHeader) + (PackedLayout(header_).size + sizeof(uint64_t)) * count;
    const auto record_at = [&](size_t i) {
        const auto record = number_at<uint32_t>(order + i * sizeof(uint32_t));
        if (record >= count) {
            engine::input_error("label file '", printable(path()),
                                "' has a damaged table of names: ", kRemedy);
        }
        return int64_t{record};
    };
    size_t low = 0;
    size_t high = count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (name(record_at(middle)) < wanted) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == count || name(record_at(low)) != wanted) return -1;
    return record_at(low);
}

void PackedLabels::match(const Dataset& dataset) {
    const bool same_data = header_.fingerprint == dataset.fingerprint();
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
    by_name_ = same_data && header_.pictures == dataset.size() ? nullptr : &dataset;
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

void PackedLabels::read(int64_t picture, PictureLabels& labels) const {
    int64_t record = picture;
    if (by_name_ != nullptr) {
        const std::string wanted = label_name(*by_name_, picture);
        record = find(wanted);
        if (record < 0) {
            engine::input_error("label file '", printable(path()), "' has no labels of '", printable(wanted),
                                "': ", kRemedy, ", or remove the picture");
        }
    }
    VVTQ_CHECK(record >= 0 && record < header_.pictures, "picture ", picture);
    const PackedLayout layout(header_);
    const auto crops = static_cast<size_t>(header_.crops);
    // Header and records are multiples of 4 bytes and the mapping starts on a page: all parts are aligned.
    const uint8_t* from =
        file_.bytes().data() + sizeof(PackedHeader) + layout.size * static_cast<size_t>(record);
    labels.coords = {reinterpret_cast<const float*>(from + layout.coords_at), crops * 4};
    labels.index = {reinterpret_cast<const int32_t*>(from + layout.index_at), crops * layout.indices};
    labels.value = {reinterpret_cast<const float*>(from + layout.value_at), crops * layout.values};
    labels.flips = {from + layout.flip_at, crops};
}

void PackedLabels::validate() const {
    const bool bounded = header_.classes > 0;
    PictureLabels labels;
    for (int64_t picture = 0; bounded && picture < header_.pictures; ++picture) {
        read(picture, labels);
        for (int each = 0; each < header_.crops; ++each) crop(picture, labels, each);
    }
    for (int64_t record = 0; record < header_.pictures; ++record) find(name(record));
}

uint64_t PackedLabels::content_hash() const {
    constexpr size_t kHashedWhole = size_t{64} << 20;
    constexpr size_t kHashedPart = size_t{1} << 20;
    const auto bytes = file_.bytes();
    Fnv hash;
    hash.add(static_cast<uint64_t>(bytes.size()));
    if (bytes.size() <= kHashedWhole) {
        hash.add(bytes);
    } else {
        hash.add(bytes.first(kHashedPart));
        hash.add(bytes.last(kHashedPart));
    }
    return hash.value();
}

}  // namespace vvtq::data
