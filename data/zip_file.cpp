#include "data/zip_file.h"

#include <zip.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <memory>

#include "engine/check.h"

namespace vvtq::data {
namespace {

constexpr uint32_t kLocal = 0x04034B50, kCentral = 0x02014B50, kEnd = 0x06054B50;

}  // namespace

bool is_zip(std::span<const uint8_t> bytes) {
    constexpr std::array<uint8_t, 4> kMagic = {'P', 'K', 3, 4};
    return bytes.size() >= kMagic.size() && std::equal(kMagic.begin(), kMagic.end(), bytes.begin());
}

std::map<std::string, Bytes> read_zip(std::span<const uint8_t> bytes, const std::string& file,
                                      uint64_t most) {
    constexpr uint64_t kSlack = 1 << 20, kTooLarge = uint64_t{1} << 50;  // bytes inside
    const auto refuse = [&](const char* reason) {
        engine::input_error("'", printable(file), "' is a truncated or damaged archive (", reason,
                            "): fetch it again");
    };
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t* source = zip_source_buffer_create(bytes.data(), bytes.size(), 0, &error);
    const std::unique_ptr<zip_t, void (*)(zip_t*)> archive(zip_open_from_source(source, ZIP_RDONLY, &error),
                                                           zip_discard);
    if (archive == nullptr) {
        const std::string reason = zip_error_strerror(&error);
        zip_error_fini(&error);
        zip_source_free(source);
        refuse(reason.c_str());
    }
    std::map<std::string, Bytes> files;
    uint64_t total = 0;
    for (zip_int64_t i = 0; i < zip_get_num_entries(archive.get(), 0); ++i) {
        zip_stat_t entry;
        if (zip_stat_index(archive.get(), static_cast<zip_uint64_t>(i), 0, &entry) != 0)
            refuse("bad directory");
        if (entry.comp_method != ZIP_CM_STORE && entry.comp_method != ZIP_CM_DEFLATE) {
            refuse("not stored or deflated");  // others may ask for gigabytes to unpack
        }
        total += std::min(entry.size, kTooLarge);
        if (total > most * bytes.size() + kSlack) refuse("too large inside");
        Bytes content(entry.size);
        const std::unique_ptr<zip_file_t, int (*)(zip_file_t*)> opened(
            zip_fopen_index(archive.get(), static_cast<zip_uint64_t>(i), 0), zip_fclose);
        uint8_t more = 0;
        const bool whole = opened != nullptr &&
                           zip_fread(opened.get(), content.data(), content.size()) ==
                               static_cast<zip_int64_t>(content.size()) &&
                           zip_fread(opened.get(), &more, 1) == 0;  // where the checksum is compared
        if (!whole) refuse("wrong checksum or encrypted");
        if (!files.emplace(entry.name, std::move(content)).second) refuse("a name twice");
    }
    return files;
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
