// Event files for TensorBoard: checksums against known ones, and records read back field by field.
#include "apps/training/event_file.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "apps/training/log.h"
#include "tests/command_support.h"
#include "tests/unit/data_support.h"
#include "tests/unit/quant_support.h"

using namespace vvtq;
using tests::contains;
using tests::message_of;

namespace {

/// A message of protobuf: numbers and bytes of its fields.
struct Message {
    std::multimap<int, uint64_t> numbers;  // the bits of doubles and floats
    std::multimap<int, std::string> bytes;

    explicit Message(const std::string& data) {
        size_t at = 0;
        const auto varint = [&] {
            uint64_t value = 0;
            for (int shift = 0;; shift += 7) {
                const auto byte = static_cast<uint8_t>(data.at(at++));
                value |= static_cast<uint64_t>(byte & 0x7f) << shift;
                if (byte < 0x80) return value;
            }
        };
        const auto fixed = [&](size_t size) {
            uint64_t value = 0;
            std::memcpy(&value, data.substr(at, size).data(), size);
            at += size;
            return value;
        };
        while (at < data.size()) {
            const uint64_t key = varint();
            const int field = static_cast<int>(key >> 3);
            switch (key & 7) {
                case 0:
                    numbers.emplace(field, varint());
                    break;
                case 1:
                    numbers.emplace(field, fixed(8));
                    break;
                case 5:
                    numbers.emplace(field, fixed(4));
                    break;
                default: {
                    REQUIRE((key & 7) == 2);
                    const uint64_t size = varint();
                    REQUIRE(at + size <= data.size());
                    bytes.emplace(field, data.substr(at, size));
                    at += size;
                }
            }
        }
    }
    double real(int field) const { return std::bit_cast<double>(numbers.find(field)->second); }
    std::vector<double> reals(int field) const {
        const std::string& packed = bytes.find(field)->second;
        std::vector<double> values(packed.size() / 8);
        std::memcpy(values.data(), packed.data(), packed.size());
        return values;
    }
};

uint32_t masked(const std::string& bytes) {
    const uint32_t crc = apps::crc32c(bytes);
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
}

/// The data of all records, whose checksums must fit.
std::vector<std::string> records_of(const std::string& file) {
    std::vector<std::string> records;
    const auto crc_at = [&](size_t place) {
        uint32_t crc = 0;
        std::memcpy(&crc, file.substr(place, 4).data(), 4);
        return crc;
    };
    size_t at = 0;
    while (at < file.size()) {
        uint64_t length = 0;
        REQUIRE(at + 12 <= file.size());
        std::memcpy(&length, &file[at], 8);
        REQUIRE(at + 16 + length <= file.size());
        CHECK(crc_at(at + 8) == masked(file.substr(at, 8)));
        records.push_back(file.substr(at + 12, length));
        CHECK(crc_at(at + 12 + length) == masked(records.back()));
        at += 16 + length;
    }
    return records;
}

}  // namespace

TEST_CASE("crc32c gives the checksums of RFC 3720") {
    CHECK(apps::crc32c("") == 0);
    CHECK(apps::crc32c("123456789") == 0xe3069283U);
    CHECK(apps::crc32c(std::string(32, '\0')) == 0x8a9136aaU);
    CHECK(apps::crc32c(std::string(32, '\xff')) == 0x62a8ab43U);
    std::string rising;
    for (int i = 0; i < 32; ++i) rising.push_back(static_cast<char>(i));
    CHECK(apps::crc32c(rising) == 0x46dd794eU);
}

TEST_CASE("event files: records hold what was said, and their checksums fit") {
    apps::Summary summary;
    CHECK(summary.empty());
    summary.scalar("train/loss", 1.5);
    summary.histogram("codes/head", -2, {1, 2, 0, 5});
    const std::string file = apps::version_record(7.25) + apps::restart_record(7.5, 300) +
                             apps::summary_record(8, 1000000, summary);
    const std::vector<std::string> records = records_of(file);
    REQUIRE(records.size() == 3);
    const Message version(records[0]), restart(records[1]), figures(records[2]);
    CHECK(version.bytes.find(3)->second == "brain.Event:2");
    CHECK(version.real(1) == 7.25);
    CHECK(restart.numbers.find(2)->second == 300);
    CHECK(Message(restart.bytes.find(7)->second).numbers.find(1)->second == 1);
    CHECK(figures.numbers.find(2)->second == 1000000);
    const Message values(figures.bytes.find(5)->second);
    REQUIRE(values.bytes.count(1) == 2);
    const Message loss(values.bytes.find(1)->second), codes(std::next(values.bytes.find(1))->second);
    CHECK(loss.bytes.find(1)->second == "train/loss");
    CHECK(std::bit_cast<float>(static_cast<uint32_t>(loss.numbers.find(2)->second)) == 1.5f);
    CHECK(codes.bytes.find(1)->second == "codes/head");
    const Message histogram(codes.bytes.find(5)->second);
    CHECK(histogram.real(1) == -2.5);
    CHECK(histogram.real(2) == 1.5);
    CHECK(histogram.real(3) == 8);
    CHECK(histogram.real(4) == -2 - 2 + 5);
    CHECK(histogram.real(5) == 4 + 2 + 5);
    CHECK(histogram.reals(6) == std::vector<double>{-2.5, -1.5, -0.5, 0.5, 1.5});
    CHECK(histogram.reals(7) == std::vector<double>{0, 1, 2, 0, 5});
}

TEST_CASE("event files: the log brings the figures of metrics.jsonl, and a folder that goes comes back") {
    const tests::Scratch scratch;
    apps::RunLog log;
    log.mute();
    log.open(scratch / "run/train.log");
    CHECK_FALSE(log.has_events());
    log.open_events(scratch / "board", 5);
    REQUIRE(log.has_events());
    log.metrics({{"kind", "train"}, {"step", 5}, {"loss", 2.5}, {"acc1", 40.0}, {"lr", 0.25}});
    log.metrics({{"kind", "warning"}, {"step", 5}, {"what", "loss_spike"}});
    log.metrics({{"kind", "eval"}, {"step", 6}, {"loss", 2.0}, {"acc1", 50.0}, {"acc5", 100.0}});
    const auto only_file = [&] {
        std::string path;
        for (const auto& entry : std::filesystem::directory_iterator(scratch / "board")) {
            CHECK(path.empty());
            path = entry.path().string();
        }
        return path;
    };
    CHECK(contains(only_file(), "/events.out.tfevents."));
    const auto records = records_of(tests::text_of(only_file()));
    REQUIRE(records.size() == 4);
    CHECK(contains(records[2], "train/loss"));
    CHECK(contains(records[2], "train/top1"));
    CHECK(contains(records[3], "val/top5"));
    CHECK_FALSE(contains(records[3], "train"));

    std::filesystem::remove_all(scratch / "board");
    log.reopen();
    log.metrics({{"kind", "eval"}, {"step", 7}, {"loss", 1.0}});
    CHECK(records_of(tests::text_of(only_file())).size() == 2);

    tests::write_bytes(scratch / "file", {1});
    const std::string message =
        message_of(engine::Fault::input, [&] { log.open_events(scratch / "file/board", 1); });
    CHECK(message.rfind("`tensorboard`: cannot write ", 0) == 0);
}
