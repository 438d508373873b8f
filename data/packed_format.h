// packed_format: how a packed label file lies on the disk (packed_labels.h says what it holds).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "data/bytes.h"
#include "data/soft_labels.h"

namespace vvtq::data {

static_assert(std::endian::native == std::endian::little, "label files are little-endian");

constexpr char kPackedMagic[8] = {'V', 'V', 'T', 'Q', 'L', 'A', 'B', 'L'};
constexpr uint32_t kPackedVersion = 2;
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
    uint64_t text;  // bytes of all names
    uint64_t reserved[7];
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
    size_t indices, values, coords_at, index_at, value_at, flip_at, size;

    explicit PackedLayout(const SoftLabelHeader& header)
        : indices(static_cast<size_t>(label_indices(header.type))),
          values(static_cast<size_t>(label_values(header.type, header.classes))) {
        const auto crops = static_cast<size_t>(header.crops);
        coords_at = sizeof(uint32_t);
        index_at = coords_at + crops * sizeof(float) * 4;
        value_at = index_at + crops * indices * sizeof(int32_t);
        flip_at = value_at + crops * values * sizeof(float);
        size = (flip_at + crops + 3) / 4 * 4;
    }
};

}  // namespace vvtq::data
