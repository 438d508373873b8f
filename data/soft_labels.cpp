#include "data/soft_labels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "engine/check.h"

namespace vvtq::data {
namespace {

static_assert(std::endian::native == std::endian::little, "label files are little-endian");

constexpr char kMagic[8] = {'V', 'V', 'T', 'Q', 'L', 'A', 'B', 'L'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kMostCrops = 1 << 16;
constexpr uint32_t kMostClasses = 1 << 24;
constexpr const char* kRemedy = "make the labels with `vvtq softlabel`";

// The header as it lies in the file.
struct RawHeader {
    char magic[8];
    uint32_t version;
    uint32_t type;
    uint64_t pictures;
    uint32_t crops;
    uint32_t classes;
    uint64_t fingerprint;
    uint64_t seed;
    uint64_t reserved;
    uint64_t check;  // FNV-1a of the bytes before
};
static_assert(sizeof(RawHeader) == 64);

uint64_t header_check(const RawHeader& raw) {
    Fnv fnv;
    fnv.add(std::span(reinterpret_cast<const uint8_t*>(&raw), offsetof(RawHeader, check)));
    return fnv.value();
}

// Where the parts of a record lie.
struct Layout {
    size_t indices, values, index_at, value_at, flip_at, size;

    explicit Layout(const SoftLabelHeader& header)
        : indices(static_cast<size_t>(label_indices(header.type))),
          values(static_cast<size_t>(label_values(header.type, header.classes))) {
        const auto crops = static_cast<size_t>(header.crops);
        index_at = crops * sizeof(float) * 4;
        value_at = index_at + crops * indices * sizeof(int32_t);
        flip_at = value_at + crops * values * sizeof(float);
        size = (flip_at + crops + 3) / 4 * 4;
    }
};

}  // namespace

SoftLabels::SoftLabels(const std::string& path, MappedFile file) : path_(path), file_(std::move(file)) {}

SoftLabels SoftLabels::open(const std::string& path) {
    SoftLabels labels(path, MappedFile(path, kRemedy));
    const auto bytes = labels.file_.bytes();
    const auto refuse = [&](const auto&... reason) {
        engine::input_error("label file '", printable(path), "' ", reason..., ": ", kRemedy);
    };
    RawHeader raw{};
    if (bytes.size() < sizeof raw) refuse("is truncated");
    std::memcpy(&raw, bytes.data(), sizeof raw);
    if (std::memcmp(raw.magic, kMagic, sizeof kMagic) != 0) refuse("is not a vvtq label file");
    if (raw.version != kVersion) refuse("has version ", raw.version, ", this program reads ", kVersion);
    if (raw.check != header_check(raw)) refuse("has a damaged header");
    const bool sane = raw.type <= static_cast<uint32_t>(LabelType::marginal_renorm) && raw.pictures > 0 &&
                      raw.pictures <= bytes.size() && raw.crops > 0 && raw.crops <= kMostCrops &&
                      raw.classes > 0 && raw.classes <= kMostClasses &&
                      label_indices(static_cast<LabelType>(raw.type)) <= static_cast<int>(raw.classes);
    if (!sane) refuse("has a damaged header");
    labels.header_ = {static_cast<LabelType>(raw.type),
                      static_cast<int64_t>(raw.pictures),
                      static_cast<int>(raw.crops),
                      static_cast<int>(raw.classes),
                      raw.fingerprint,
                      raw.seed};
    const size_t record = Layout(labels.header_).size;
    const size_t held = bytes.size() - sizeof raw;
    if (held / record != raw.pictures || held % record != 0) {
        refuse("is truncated or damaged: ", held, " bytes for ", raw.pictures, " pictures of ", record,
               " bytes");
    }
    constexpr size_t kValidatedAtOnce = size_t{64} << 20;
    if (bytes.size() <= kValidatedAtOnce) labels.validate();
    return labels;
}

void SoftLabels::require_matches(uint64_t fingerprint, int64_t pictures, int classes,
                                 const std::string& dataset) const {
    if (header_.pictures == pictures && header_.classes == classes && header_.fingerprint == fingerprint)
        return;
    engine::input_error("label file '", printable(path_), "' (", header_.pictures, " pictures, ",
                        header_.classes, " classes) belongs to another data set than '", printable(dataset),
                        "' (", pictures, " pictures, ", classes,
                        " classes): name its own labels, or make them with `vvtq softlabel`");
}

LabelledCrop SoftLabels::crop(int64_t picture, int crop) const {
    VVTQ_CHECK(picture >= 0 && picture < header_.pictures && crop >= 0 && crop < header_.crops, "picture ",
               picture, ", crop ", crop);
    const Layout layout(header_);
    const auto at = static_cast<size_t>(crop);
    // Header and records are multiples of 4 bytes and the mapping starts on a page: all parts are aligned.
    const uint8_t* record =
        file_.bytes().data() + sizeof(RawHeader) + layout.size * static_cast<size_t>(picture);
    const auto* coords = reinterpret_cast<const float*>(record) + at * 4;
    LabelledCrop out;
    out.index = {reinterpret_cast<const int32_t*>(record + layout.index_at) + at * layout.indices,
                 layout.indices};
    out.value = {reinterpret_cast<const float*>(record + layout.value_at) + at * layout.values,
                 layout.values};
    out.flip = record[layout.flip_at + at] != 0;
    std::copy(coords, coords + 4, out.coords.begin());

    const auto refuse = [&](const char* reason) {
        engine::input_error("label file '", printable(path_), "': crop ", crop, " of picture ", picture, " ",
                            reason, ": ", kRemedy);
    };
    constexpr double kSlack = 2e-3;  // coordinates that were once 16-bit floats are off by 2^-10 in a sum
    const auto& [top, left, height, width] = out.coords;
    const bool inside = top >= 0 && left >= 0 && height > 0 && width > 0 && top + height <= 1 + kSlack &&
                        left + width <= 1 + kSlack;
    if (!inside) refuse("lies outside of [0, 1]");
    for (const int32_t index : out.index) {
        if (!(index >= 0 && index < header_.classes)) refuse("names a class that does not exist");
    }
    double sum = 0.0;
    for (const float value : out.value) {
        if (!(value >= 0 && value <= 1)) refuse("has a probability outside of [0, 1]");
        sum += value;
    }
    if (!out.value.empty() && !(sum > 0 && sum <= 1 + kSlack)) refuse("has probabilities that do not add up");
    return out;
}

void SoftLabels::validate() const {
    for (int64_t picture = 0; picture < header_.pictures; ++picture) {
        for (int each = 0; each < header_.crops; ++each) crop(picture, each);
    }
}

SoftLabelWriter::SoftLabelWriter(const std::string& path, const SoftLabelHeader& header)
    : file_(path), header_(header) {
    require_label_fits(header.type, header.classes);
    VVTQ_CHECK(header.pictures > 0, header.pictures, " pictures");
    if (!(header.crops > 0 && header.crops <= static_cast<int>(kMostCrops))) {
        engine::input_error("--crops-per-image ", header.crops, ": use 1 to ", kMostCrops);
    }
    RawHeader raw{};
    std::memcpy(raw.magic, kMagic, sizeof kMagic);
    raw.version = kVersion;
    raw.type = static_cast<uint32_t>(header.type);
    raw.pictures = static_cast<uint64_t>(header.pictures);
    raw.crops = static_cast<uint32_t>(header.crops);
    raw.classes = static_cast<uint32_t>(header.classes);
    raw.fingerprint = header.fingerprint;
    raw.seed = header.seed;
    raw.check = header_check(raw);
    file_.write(&raw, sizeof raw);
    const Layout layout(header);
    record_.resize(layout.size);
    index_.resize(layout.indices);
    value_.resize(layout.values);
}

void SoftLabelWriter::append(std::span<const Coords> coords, std::span<const uint8_t> flips,
                             std::span<const float> p) {
    const Layout layout(header_);
    const auto crops = static_cast<size_t>(header_.crops);
    const auto classes = static_cast<size_t>(header_.classes);
    VVTQ_CHECK(coords.size() == crops && flips.size() == crops && p.size() == crops * classes &&
                   appended_ < header_.pictures,
               coords.size(), " crops, ", flips.size(), " flips, ", p.size(), " probabilities, picture ",
               appended_);
    for (size_t m = 0; m < crops; ++m) {
        float* to = reinterpret_cast<float*>(record_.data()) + m * 4;
        for (size_t i = 0; i < 4; ++i) to[i] = static_cast<float>(coords[m][i]);
        pack_label<float>(header_.type, p.subspan(m * classes, classes), index_, value_);
        const size_t index_bytes = layout.indices * sizeof(int32_t);
        const size_t value_bytes = layout.values * sizeof(float);
        if (index_bytes > 0)
            std::memcpy(record_.data() + layout.index_at + m * index_bytes, index_.data(), index_bytes);
        if (value_bytes > 0)
            std::memcpy(record_.data() + layout.value_at + m * value_bytes, value_.data(), value_bytes);
        record_[layout.flip_at + m] = flips[m] != 0 ? 1 : 0;
    }
    file_.write(record_.data(), record_.size());
    ++appended_;
}

void SoftLabelWriter::finish() {
    VVTQ_CHECK(appended_ == header_.pictures, appended_, " of ", header_.pictures, " pictures were labelled");
    file_.commit();
}

}  // namespace vvtq::data
