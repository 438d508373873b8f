// The names in a packed label file.
#include <cstring>

#include "data/packed_format.h"
#include "engine/check.h"

namespace vvtq::data {

PackedNames::PackedNames(const PositionedFile& file, const PackedHeader& header, size_t record_size,
                         const std::string& path)
    : count_(header.pictures) {
    const uint64_t begin = sizeof header + record_size * count_;
    bytes_.resize(file.size() - begin);
    file.read(begin, bytes_.data(), bytes_.size(), "the names");
    const auto refuse = [&](const char* reason) {
        engine::input_error("label file '", printable(path), "' ", reason,
                            ": make the labels with `vvtq softlabel`");
    };
    constexpr const char* kDamaged = "has a damaged table of names";
    if (header.version != kUncheckedVersion && checksum(bytes_) != header.names_check) refuse(kDamaged);
    for (size_t i = 0; i < count_; ++i) {
        if (end(i) < (i == 0 ? 0 : end(i - 1)) || end(i) > header.text) refuse(kDamaged);
        if (sorted(i) >= count_) refuse(kDamaged);
    }
    if (end(count_ - 1) != header.text) refuse(kDamaged);
    for (size_t i = 1; i < count_; ++i) {
        if (!(name(static_cast<int64_t>(sorted(i - 1))) < name(static_cast<int64_t>(sorted(i))))) {
            refuse("has a damaged table of names: they are not in order, or one stands there twice");
        }
    }
}

uint64_t PackedNames::end(size_t record) const {
    uint64_t value;
    std::memcpy(&value, bytes_.data() + record * sizeof value, sizeof value);
    return value;
}

size_t PackedNames::sorted(size_t i) const {
    uint32_t value;
    std::memcpy(&value, bytes_.data() + count_ * sizeof(uint64_t) + i * sizeof value, sizeof value);
    return value;
}

std::string_view PackedNames::name(int64_t record) const {
    const auto at = static_cast<size_t>(record);
    VVTQ_CHECK(record >= 0 && at < count_, record);
    const uint64_t begin = at == 0 ? 0 : end(at - 1);
    const uint8_t* text = bytes_.data() + count_ * (sizeof(uint64_t) + sizeof(uint32_t));
    return {reinterpret_cast<const char*>(text + begin), end(at) - begin};
}

int64_t PackedNames::find(std::string_view wanted) const {
    size_t low = 0, high = count_;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (name(static_cast<int64_t>(sorted(middle))) < wanted) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == count_ || name(static_cast<int64_t>(sorted(low))) != wanted) return -1;
    return static_cast<int64_t>(sorted(low));
}

}  // namespace vvtq::data
