#include "data/tar_blocks.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "engine/check.h"

namespace vvtq::data {

Bytes tar_header(const std::string& name, uint64_t size) {
    constexpr size_t kName = 100, kNumber = 11;  // bytes of a name, digits of a size or time
    VVTQ_CHECK(name.size() <= kName && size >> (3 * kNumber) == 0, name, ", ", size, " bytes");
    Bytes block(kTarBlock);
    const auto put = [&](size_t at, const std::string& text) {
        std::copy(text.begin(), text.end(), block.begin() + static_cast<std::ptrdiff_t>(at));
    };
    const auto octal = [](uint64_t number, int digits) {
        char text[32];
        std::snprintf(text, sizeof text, "%0*llo", digits, static_cast<unsigned long long>(number));
        return std::string(text);
    };
    constexpr size_t kMode = 100, kUser = 108, kGroup = 116, kSize = 124, kTime = 136, kSum = 148,
                     kType = 156, kMagic = 257, kDevice = 329;
    put(0, name);
    put(kMode, octal(0644, 7));
    put(kUser, octal(0, 7));
    put(kGroup, octal(0, 7));
    put(kSize, octal(size, kNumber));
    put(kTime, octal(0, kNumber));
    put(kSum, "        ");  // counts as spaces in the sum
    put(kType, "0");
    put(kMagic, std::string("ustar\0", 6) + "00");
    put(kDevice, octal(0, 7));
    put(kDevice + 8, octal(0, 7));
    const auto sum = std::accumulate(block.begin(), block.end(), uint64_t{0});
    put(kSum, octal(sum, 6) + std::string("\0 ", 2));
    return block;
}

}  // namespace vvtq::data
