#include "data/zip_file.h"

#include <zlib.h>

#include <cstring>

#include "engine/check.h"

namespace vvtq::data {
namespace {

constexpr uint32_t kLocal = 0x04034B50, kCentral = 0x02014B50, kEnd = 0x06054B50, kEnd64 = 0x06064B50,
                   kEnd64Locator = 0x07064B50;
constexpr size_t kLocalSize = 30, kCentralSize = 46, kEndSize = 22, kEnd64Size = 56, kLocatorSize = 20;

template <typename T>
T get(const uint8_t* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

class Archive {
  public:
    Archive(std::span<const uint8_t> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

    std::map<std::string, std::span<const uint8_t>> files() const {
        auto [count, at] = directory();
        std::map<std::string, std::span<const uint8_t>> files;
        for (uint64_t i = 0; i < count; ++i) {
            const uint8_t* entry = part(at, kCentralSize);
            if (get<uint32_t>(entry) != kCentral) refuse("bad directory");
            const size_t name_size = get<uint16_t>(entry + 28);
            const size_t extra_size = get<uint16_t>(entry + 30);
            const size_t comment_size = get<uint16_t>(entry + 32);
            const uint8_t* tail = part(at + kCentralSize, name_size + extra_size + comment_size);
            const std::string name(reinterpret_cast<const char*>(tail), name_size);
            if (!files.emplace(name, content(entry, {tail + name_size, extra_size})).second) {
                refuse("a name twice");
            }
            at += kCentralSize + name_size + extra_size + comment_size;
        }
        return files;
    }

  private:
    [[noreturn]] void refuse(const char* reason) const {
        engine::input_error("'", printable(file_), "' is a truncated or damaged archive (", reason,
                            "): fetch it again");
    }
    const uint8_t* part(uint64_t at, uint64_t size) const {
        if (at > bytes_.size() || size > bytes_.size() - at) refuse("it ends too early");
        return bytes_.data() + at;
    }

    // Number of entries and where they begin.
    std::pair<uint64_t, uint64_t> directory() const {
        constexpr size_t kLongestComment = 65535;
        if (bytes_.size() < kEndSize) refuse("it ends too early");
        size_t at = bytes_.size() - kEndSize;
        const size_t stop = at > kLongestComment ? at - kLongestComment : 0;
        while (get<uint32_t>(&bytes_[at]) != kEnd) {
            if (at == stop) refuse("it ends too early");
            --at;
        }
        uint64_t count = get<uint16_t>(&bytes_[at + 10]);
        uint64_t offset = get<uint32_t>(&bytes_[at + 16]);
        if (offset == UINT32_MAX || count == UINT16_MAX) {
            if (at < kLocatorSize || get<uint32_t>(&bytes_[at - kLocatorSize]) != kEnd64Locator) {
                refuse("bad directory");
            }
            const uint8_t* end = part(get<uint64_t>(&bytes_[at - kLocatorSize + 8]), kEnd64Size);
            if (get<uint32_t>(end) != kEnd64) refuse("bad directory");
            count = get<uint64_t>(end + 32);
            offset = get<uint64_t>(end + 48);
        }
        if (count > bytes_.size() / kCentralSize) refuse("bad directory");
        return {count, offset};
    }

    std::span<const uint8_t> content(const uint8_t* entry, std::span<const uint8_t> extra) const {
        if ((get<uint16_t>(entry + 8) & 1) != 0 || get<uint16_t>(entry + 10) != 0) refuse("compressed");
        const auto checksum = get<uint32_t>(entry + 16);
        uint64_t packed = get<uint32_t>(entry + 20);
        uint64_t size = get<uint32_t>(entry + 24);
        uint64_t offset = get<uint32_t>(entry + 42);
        // Numbers that do not fit stand in the extra field of kind 1, in this order.
        while (extra.size() >= 4) {
            const size_t held = get<uint16_t>(&extra[2]);
            if (held > extra.size() - 4) refuse("bad directory");
            if (get<uint16_t>(extra.data()) == 1) {
                auto field = extra.subspan(4, held);
                for (uint64_t* number : {&size, &packed, &offset}) {
                    if (*number != UINT32_MAX) continue;
                    if (field.size() < 8) refuse("bad directory");
                    *number = get<uint64_t>(field.data());
                    field = field.subspan(8);
                }
            }
            extra = extra.subspan(4 + held);
        }
        const uint8_t* local = part(offset, kLocalSize);
        if (get<uint32_t>(local) != kLocal || packed != size) refuse("bad directory");
        const uint64_t begin = offset + kLocalSize + get<uint16_t>(local + 26) + get<uint16_t>(local + 28);
        const std::span<const uint8_t> held(part(begin, size), size);
        if (crc32_z(0, held.data(), held.size()) != checksum) refuse("wrong checksum");
        return held;
    }

    std::span<const uint8_t> bytes_;
    const std::string& file_;
};

}  // namespace

bool is_zip(std::span<const uint8_t> bytes) {
    return bytes.size() >= 4 && get<uint32_t>(bytes.data()) == kLocal;
}

std::map<std::string, std::span<const uint8_t>> read_zip(std::span<const uint8_t> bytes,
                                                         const std::string& file) {
    return Archive(bytes, file).files();
}

Bytes write_zip(const std::vector<std::pair<std::string, Bytes>>& files) {
    Bytes out, central;
    const auto put = [](Bytes& to, uint64_t value, int size) {
        for (int i = 0; i < size; ++i) to.push_back(static_cast<uint8_t>(value >> (8 * i)));
    };
    constexpr uint64_t kVersion = 20, kDate = 0x21;  // 2.0; 1 January 1980
    for (const auto& [name, content] : files) {
        const uint64_t offset = out.size();
        // Version, flags, method (stored), time, date, checksum, sizes, lengths of name and extra field.
        const auto common = [&, &file_name = name, &bytes = content](Bytes& to) {
            put(to, kVersion, 2);
            put(to, 0, 6);
            put(to, kDate, 2);
            put(to, crc32_z(0, bytes.data(), bytes.size()), 4);
            put(to, bytes.size(), 4);
            put(to, bytes.size(), 4);
            put(to, file_name.size(), 2);
            put(to, 0, 2);
        };
        put(out, kLocal, 4);
        common(out);
        out.insert(out.end(), name.begin(), name.end());
        out.insert(out.end(), content.begin(), content.end());
        put(central, kCentral, 4);
        put(central, kVersion, 2);
        common(central);
        put(central, 0, 6);  // comment, disk, attributes
        put(central, 0, 4);  // more attributes
        put(central, offset, 4);
        central.insert(central.end(), name.begin(), name.end());
    }
    const uint64_t directory = out.size();
    out.insert(out.end(), central.begin(), central.end());
    put(out, kEnd, 4);
    put(out, 0, 4);
    put(out, files.size(), 2);
    put(out, files.size(), 2);
    put(out, central.size(), 4);
    put(out, directory, 4);
    put(out, 0, 2);
    return out;
}

}  // namespace vvtq::data
