#include "apps/training/event_file.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <cstring>

#include "engine/check.h"

namespace vvtq::apps {
namespace {

// Numbers of the fields in event.proto, summary.proto and histogram.proto.
namespace event {
constexpr int kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7;
}
namespace summary {
constexpr int kValue = 1;
}
namespace value {
constexpr int kTag = 1, kSimpleValue = 2, kHisto = 5;
}
namespace histogram {
constexpr int kMin = 1, kMax = 2, kNum = 3, kSum = 4, kSumSquares = 5, kBucketLimit = 6, kBucket = 7;
}
namespace session {
constexpr int kStatus = 1, kStart = 1;
}

// How protobuf writes a field.
constexpr int kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

template <typename T>
void put(std::string& out, T value) {
    static_assert(std::endian::native == std::endian::little);
    char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    out.append(bytes, sizeof value);
}

void put_varint(std::string& out, uint64_t value) {
    for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
    out.push_back(static_cast<char>(value));
}

void put_key(std::string& out, int field, int kind) {
    put_varint(out, static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(kind));
}

void put_bytes(std::string& out, int field, std::string_view value) {
    put_key(out, field, kBytes);
    put_varint(out, value.size());
    out += value;
}

void put_double(std::string& out, int field, double value) {
    put_key(out, field, kFixed64);
    put(out, value);
}

void put_int(std::string& out, int field, int64_t value) {
    put_key(out, field, kVarint);
    put_varint(out, static_cast<uint64_t>(value));
}

void put_doubles(std::string& out, int field, const std::vector<double>& values) {
    std::string packed;
    for (const double value : values) put(packed, value);
    put_bytes(out, field, packed);
}

uint32_t masked_crc(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8U; }

/// length, its checksum, data, its checksum
std::string record(const std::string& data) {
    std::string length, out;
    put<uint64_t>(length, data.size());
    out = length;
    put(out, masked_crc(length));
    out += data;
    put(out, masked_crc(data));
    return out;
}

std::string event_at(double seconds, int64_t step) {
    std::string event;
    put_double(event, event::kWallTime, seconds);
    put_int(event, event::kStep, step);
    return event;
}

constexpr std::array<uint32_t, 256> crc_table() {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78U : 0U);
        table[i] = crc;
    }
    return table;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
    static constexpr std::array<uint32_t, 256> kTable = crc_table();
    uint32_t crc = ~0U;
    for (const char byte : bytes) crc = crc >> 8 ^ kTable[(crc ^ static_cast<uint8_t>(byte)) & 0xff];
    return ~crc;
}

void Summary::add(const std::string& tag, int field, const std::string& value) {
    std::string entry;
    put_bytes(entry, value::kTag, tag);
    if (field == value::kSimpleValue) {
        put_key(entry, field, kFixed32);
        entry += value;
    } else {
        put_bytes(entry, field, value);
    }
    put_bytes(bytes_, summary::kValue, entry);
}

void Summary::scalar(const std::string& tag, double value) {
    std::string bytes;
    put(bytes, static_cast<float>(value));
    add(tag, value::kSimpleValue, bytes);
}

void Summary::histogram(const std::string& tag, int low, const std::vector<double>& counts) {
    VVTQ_CHECK(!counts.empty(), "a histogram of nothing");
    // a bucket holds what is at most its limit and above the limit before
    std::vector<double> limits{low - 0.5}, buckets{0.0};
    double number = 0, sum = 0, squares = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
        const double code = low + static_cast<double>(i);
        limits.push_back(code + 0.5);
        buckets.push_back(counts[i]);
        number += counts[i];
        sum += counts[i] * code;
        squares += counts[i] * code * code;
    }
    std::string bytes;
    put_double(bytes, histogram::kMin, limits.front());
    put_double(bytes, histogram::kMax, limits.back());
    put_double(bytes, histogram::kNum, number);
    put_double(bytes, histogram::kSum, sum);
    put_double(bytes, histogram::kSumSquares, squares);
    put_doubles(bytes, histogram::kBucketLimit, limits);
    put_doubles(bytes, histogram::kBucket, buckets);
    add(tag, value::kHisto, bytes);
}

std::string version_record(double seconds) {
    std::string event = event_at(seconds, 0);
    put_bytes(event, event::kFileVersion, "brain.Event:2");
    return record(event);
}

std::string summary_record(double seconds, int64_t step, const Summary& summary) {
    std::string event = event_at(seconds, step);
    put_bytes(event, event::kSummary, summary.bytes());
    return record(event);
}

std::string restart_record(double seconds, int64_t step) {
    std::string event = event_at(seconds, step), log;
    put_int(log, session::kStatus, session::kStart);
    put_bytes(event, event::kSessionLog, log);
    return record(event);
}

std::string event_file_name(double seconds) {
    char host[256] = "host";
    ::gethostname(host, sizeof host - 1);
    return engine::concat("events.out.tfevents.", static_cast<int64_t>(seconds), ".", host, ".", ::getpid());
}

}  // namespace vvtq::apps
