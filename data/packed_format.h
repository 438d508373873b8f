// packed_format: how a packed label file lies on the disk (packed_labels.h says what it holds).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "data/bytes.h"
#include "data/positioned_file.h"
#include "data/soft_labels.h"

namespace vvtq::data {

static_assert(std::endian::native == std::endian::little, "label files are little-endian");

constexpr char kPackedMagic[8] = {'V', 'V', 'T', 'Q', 'L', 'A', 'B', 'L'};
constexpr uint32_t kPackedVersion = 3;
constexpr uint32_t kUncheckedVersion = 2;  // had no checksums of records and names; is read, not written
constexpr uint32_t kMostCrops = 1 << 16;
constexpr uint32_t kMostClasses = 1 << 24;

struct PackedHeader {
    char magic[8];
    uint32_t version;
    uint32_t type;
    uint64_t pictures;
    uint32_t crops;
    uint32_t classes;
    uint64_t fingerprint;
    uint64_t seed;
    uint64_t settings;
    uint64_t text;         // bytes of all names
    uint32_t names_check;  // checksum() of the names' part
    uint32_t unused;
    uint64_t reserved[6];
    uint64_t check;  // FNV-1a of the bytes before
};
static_assert(sizeof(PackedHeader) == 128);

inline uint64_t header_check(const PackedHeader& raw) {
    Fnv fnv;
    fnv.add(std::span(reinterpret_cast<const uint8_t*>(&raw), offsetof(PackedHeader, check)));
    return fnv.value();
}

/// Where the parts of a record lie.
struct PackedLayout {
    size_t indices, values, coords_at, index_at, value_at, flip_at;
    size_t check_at;  // of the checksum, up to which it counts; `size` where there is none
    size_t size;

    explicit PackedLayout(const SoftLabelHeader& header, uint32_t version = kPackedVersion)
        : indices(static_cast<size_t>(label_indices(header.type))),
          values(static_cast<size_t>(label_values(header.type, header.classes))) {
        const auto crops = static_cast<size_t>(header.crops);
        coords_at = sizeof(uint32_t);
        index_at = coords_at + crops * sizeof(float) * 4;
        value_at = index_at + crops * indices * sizeof(int32_t);
        flip_at = value_at + crops * values * sizeof(float);
        check_at = (flip_at + crops + 3) / 4 * 4;
        size = check_at + (version == kUncheckedVersion ? 0 : sizeof(uint32_t));
    }
};

/// The checksum of record `number`. It begins with the number, so that a record in another's place is
/// noticed.
inline uint32_t record_check(uint64_t number, std::span<const uint8_t> record, const PackedLayout& layout) {
    const std::span place(reinterpret_cast<const uint8_t*>(&number), sizeof number);
    return checksum(record.first(layout.check_at), checksum(place));
}

/// The names' part of a packed file, in memory.
class PackedNames {
  public:
    /// Reads what lies behind the records, whose size was found to fit. `path` is for messages. Errors:
    /// input_error where the names are damaged or one stands there twice.
    PackedNames(const PositionedFile& file, const PackedHeader& header, size_t record_size,
                const std::string& path);

    std::string_view name(int64_t record) const;
    /// The record of that name, -1 where there is none.
    int64_t find(std::string_view name) const;

  private:
    uint64_t end(size_t record) const;
    size_t sorted(size_t i) const;

    size_t count_;
    Bytes bytes_;
};

}  // namespace vvtq::data
