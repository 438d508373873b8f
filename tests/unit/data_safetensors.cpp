// safetensors: a file of the reference library, round trips, and hostile headers.
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "data/elements.h"
#include "data/safetensors.h"
#include "engine/random.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;
using nlohmann::json;

namespace {

Bytes with_header(const std::string& header, size_t data) {
    Bytes file(8 + header.size() + data);
    const uint64_t length = header.size();
    std::memcpy(file.data(), &length, 8);
    std::memcpy(file.data() + 8, header.data(), header.size());
    return file;
}

template <typename T>
std::span<const uint8_t> raw(const std::vector<T>& values) {
    return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T)};
}

}  // namespace

TEST_CASE("a file of the reference library reads with its values", "[data]") {
    const SafeTensors file = SafeTensors::open(fixture_path("ckpt.safetensors"));
    const json expected = json::parse(std::ifstream(fixture_path("ckpt.json")));
    CHECK(file.entries().size() >= 10);
    int compared = 0;
    for (const auto& [name, entry] : file.entries()) {
        if (!expected.contains(name)) continue;
        INFO(name << " " << entry.dtype);
        const json& want = expected[name];
        CHECK(entry.shape == want["shape"].get<std::vector<int64_t>>());
        CHECK(file.read<double>(name) == want["values"].get<std::vector<double>>());
        ++compared;
    }
    CHECK(compared == static_cast<int>(file.entries().size()));
    CHECK(refuses("no.such.tensor", [&] { file.read<float>("no.such.tensor"); }));
}

TEST_CASE("tensors of every type survive a round trip, aligned", "[data]") {
    const Scratch scratch;
    const std::string path = scratch / "model.safetensors";
    const std::vector<double> f64{1.0, -2.5, 1e300};
    const std::vector<float> f32{0.1F, 3.0F, -INFINITY, 7.0F};
    const std::vector<uint16_t> half{0x3C00, 0xC000, 0x0001, 0x7C00};  // 1, -2, 2^-24, infinity
    const std::vector<uint16_t> bf16{0x3F80, 0xC000};                  // 1, -2
    const std::vector<int64_t> i64{int64_t{1} << 53, -3};
    const std::vector<int32_t> i32{-7};
    const std::vector<int8_t> i8{-8, 7, 1};
    const std::vector<uint8_t> u8{255};
    const std::vector<TensorBytes> tensors{
        {"u8", "U8", {1}, raw(u8)},    {"f32", "F32", {2, 2}, raw(f32)}, {"i8", "I8", {3, 1}, raw(i8)},
        {"f64", "F64", {3}, raw(f64)}, {"half", "F16", {4}, raw(half)},  {"bf16", "BF16", {1, 2}, raw(bf16)},
        {"i64", "I64", {2}, raw(i64)}, {"i32", "I32", {}, raw(i32)},     {"flag", "BOOL", {1}, raw(u8)},
        {"nothing", "F32", {0, 5}, {}}};
    const std::map<std::string, std::string> metadata{{"epoch", "3"},
                                                      {"flags", "{\"a\": [1, 2]}\n\"quoted\""}};
    write_safetensors(path, tensors, metadata);
    const SafeTensors file = SafeTensors::open(path);
    CHECK(file.metadata() == metadata);
    CHECK(file.entries().size() == tensors.size());
    for (const TensorBytes& tensor : tensors) {
        const auto& entry = file.entry(tensor.name);
        CHECK(entry.dtype == tensor.dtype);
        CHECK(entry.shape == tensor.shape);
        CHECK(entry.begin % element_size(entry.dtype) == 0);
        const auto bytes = file.bytes(tensor.name);
        CHECK(std::equal(bytes.begin(), bytes.end(), tensor.data.begin(), tensor.data.end()));
    }
    CHECK(file.read<float>("half") == std::vector<float>{1.0F, -2.0F, 0x1p-24F, INFINITY});
    CHECK(file.read<float>("bf16") == std::vector<float>{1.0F, -2.0F});
    CHECK(file.read<double>("i64") == std::vector<double>{0x1p53, -3.0});
    CHECK(file.read<double>("i8") == std::vector<double>{-8.0, 7.0, 1.0});
    CHECK(file.read<float>("nothing").empty());

    const Bytes first = read_file(path, "");
    write_safetensors(path, tensors, metadata);
    CHECK(read_file(path, "") == first);
    CHECK_THROWS_AS(write_safetensors(path, {{"x", "F32", {3}, raw(f64)}}, {}), engine::Error);
    CHECK_THROWS_AS(write_safetensors(path, {{"x", "I8", {3}, raw(i8)}, {"x", "I8", {3}, raw(i8)}}, {}),
                    engine::Error);
    CHECK(read_file(path, "") == first);
    CHECK(refuses("nowhere", [&] { write_safetensors(scratch / "nowhere/x", tensors, {}); }));
}

TEST_CASE("a truncated safetensors file is refused at every length", "[data][bad-input]") {
    const Scratch scratch;
    const std::string path = scratch / "cut.safetensors";
    const Bytes whole = fixture("ckpt.safetensors");
    for (size_t size = 0; size < whole.size(); ++size) {
        INFO(size << " of " << whole.size());
        write_bytes(path, Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)));
        CHECK(refuses("cut.safetensors", [&] { SafeTensors::open(path); }));
    }
}

TEST_CASE("cut files are called that", "[data][bad-input]") {
    const Scratch scratch;
    const std::string path = scratch / "cut.safetensors";
    Bytes whole = fixture("ckpt.safetensors");
    whole.pop_back();
    write_bytes(path, whole);
    CHECK(refuses("is truncated: tensor", [&] { SafeTensors::open(path); }));
}

TEST_CASE("hostile safetensors headers are refused by name", "[data][bad-input]") {
    const Scratch scratch;
    const std::string path = scratch / "evil.safetensors";
    const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
        return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
    };
    const std::string good = tensor("F32", "[2]", "[0,8]");
    write_bytes(path, with_header("{\"a\":" + good + "}", 8));
    CHECK(SafeTensors::open(path).entry("a").count() == 2);
    write_bytes(path, with_header("{}", 0));
    CHECK(SafeTensors::open(path).entries().empty());
    const std::string big = "18446744073709551615";
    const std::pair<std::string, size_t> headers[] = {
        {"", 0},
        {"[]", 0},
        {"null", 0},
        {"{\"a\":" + good, 8},
        {"{\"a\":" + good + "} trailing", 8},
        {"{\"a\":" + good + ",\"a\":" + good + "}", 8},
        {"{\"a\":" + good + ",\"b\":" + good + "}", 8},                              // overlap
        {"{\"a\":" + good + ",\"b\":" + tensor("F32", "[1]", "[12,16]") + "}", 16},  // gap
        {"{\"a\":" + good + "}", 12},                                                // bytes of no tensor
        {"{\"a\":" + tensor("F32", "[3]", "[0,8]") + "}", 8},
        {"{\"a\":" + tensor("F31", "[2]", "[0,8]") + "}", 8},
        {"{\"a\":" + tensor("F32", "[2]", "[8,0]") + "}", 8},
        {"{\"a\":" + tensor("F32", "[2]", "[0,8,9]") + "}", 8},
        {"{\"a\":" + tensor("F32", "[2]", "[-8,0]") + "}", 8},
        {"{\"a\":" + tensor("F32", "[2.0]", "[0,8]") + "}", 8},
        {"{\"a\":" + tensor("F32", "[-2]", "[0,8]") + "}", 8},
        {"{\"a\":" + tensor("F32", "[4611686018427387906]", "[0,8]") + "}",
         8},  // 2^62 + 2: times 4 it wraps to 8
        {"{\"a\":" + tensor("F32", "[" + big + ",0]", "[0,0]") + "}", 0},
        {"{\"a\":" + tensor("F32", "[0," + big + "]", "[0,0]") + "}", 0},
        {"{\"a\":" + tensor("F32", "[2]", "[0," + big + "]") + "}", 8},
        {"{\"a\":" + tensor("F32", "\"2\"", "[0,8]") + "}", 8},
        {"{\"a\":5}", 0},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8},
        {"{\"__metadata__\":{\"x\":1}}", 0},
        {"{\"__metadata__\":[]}", 0},
        {"{\"\xFF\xFE\":" + good + "}", 8},
        {"{\"bad\nname\":" + good + "}", 8},
        {"{\"a\":" + tensor("F32\\n", "[2]", "[0,8]") + "}", 8},
        {"{\"a\":" + std::string(100'000, '['), 8},
        {"{\"a\":" + std::string(1000, '[') + std::string(1000, ']') + "}", 0},
    };
    for (const auto& [header, data] : headers) {
        INFO(header.substr(0, 200));
        write_bytes(path, with_header(header, data));
        CHECK(refuses("evil.safetensors", [&] { SafeTensors::open(path); }));
    }
    for (const uint64_t length : {uint64_t{100}, uint64_t{1} << 40, UINT64_MAX}) {
        Bytes file = with_header("{}", 0);
        std::memcpy(file.data(), &length, 8);
        write_bytes(path, file);
        CHECK(refuses("evil.safetensors", [&] { SafeTensors::open(path); }));
    }
    CHECK(refuses("absent", [&] { SafeTensors::open(scratch / "absent"); }));
}

TEST_CASE("a damaged safetensors header is refused or read, never worse", "[data][bad-input]") {
    const Scratch scratch;
    const std::string path = scratch / "damaged.safetensors";
    const Bytes whole = fixture("ckpt.safetensors");
    engine::Random random(5);
    int refused = 0;
    for (int trial = 0; trial < 400; ++trial) {
        Bytes broken = whole;
        for (int hit = 0; hit < 2; ++hit) broken[random.below(700)] = static_cast<uint8_t>(random.bits());
        write_bytes(path, broken);
        try {
            const SafeTensors file = SafeTensors::open(path);
            for (const auto& [name, entry] : file.entries()) {
                CHECK(file.read<double>(name).size() == static_cast<size_t>(entry.count()));
            }
        } catch (const engine::Error& error) {
            CHECK(error.fault() == engine::Fault::input);
            ++refused;
        }
    }
    CHECK(refused > 200);
}
