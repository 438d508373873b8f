#include "quant/export/bit_codes.h"

#include "engine/check.h"

namespace vvtq::quant {

std::vector<uint8_t> pack_codes(std::span<const int8_t> codes, int bits) {
    VVTQ_CHECK(bits >= 1 && bits <= 8, "codes of ", bits, " bits");
    std::vector<uint8_t> bytes;
    bytes.reserve(packed_size(codes.size(), bits));
    unsigned pending = 0;  // bits that are no whole byte yet
    int count = 0;
    for (const int code : codes) {
        const bool sign = bits == 1 && (code == 1 || code == -1);
        const int stored = bits == 1 ? (code + 1) / 2 : code + (1 << (bits - 1));
        VVTQ_CHECK(bits == 1 ? sign : stored >= 0 && stored >> bits == 0, "code ", code, " of ", bits,
                   " bits");
        pending |= static_cast<unsigned>(stored) << count;
        for (count += bits; count >= 8; count -= 8) {
            bytes.push_back(static_cast<uint8_t>(pending));
            pending >>= 8;
        }
    }
    if (count > 0) bytes.push_back(static_cast<uint8_t>(pending));
    return bytes;
}

std::vector<int8_t> unpack_codes(std::span<const uint8_t> bytes, uint64_t count, int bits) {
    VVTQ_CHECK(bits >= 1 && bits <= 8 && bytes.size() == packed_size(count, bits), bytes.size(),
               " bytes for ", count, " codes of ", bits, " bits");
    std::vector<int8_t> codes(count);
    unsigned pending = 0;
    int held = 0;
    auto byte = bytes.begin();
    for (int8_t& code : codes) {
        if (held < bits) {
            pending |= static_cast<unsigned>(*byte++) << held;
            held += 8;
        }
        const int stored = static_cast<int>(pending & ((1U << bits) - 1));
        code = static_cast<int8_t>(bits == 1 ? 2 * stored - 1 : stored - (1 << (bits - 1)));
        pending >>= bits;
        held -= bits;
    }
    return codes;
}

}  // namespace vvtq::quant
