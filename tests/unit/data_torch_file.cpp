// Files of torch.save against what torch.load gives, and hostile ones.
#include "data/torch_file.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "data/zip_file.h"
#include "engine/random.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;
using nlohmann::json;

namespace {

json read_json(const std::string& name) {
    const Bytes bytes = fixture(name);
    return json::parse(bytes.begin(), bytes.end());
}

void flatten(const json& nested, std::vector<double>& out) {
    if (nested.is_array()) {
        for (const json& each : nested) flatten(each, out);
    } else {
        out.push_back(nested.is_boolean() ? (nested.get<bool>() ? 1.0 : 0.0) : nested.get<double>());
    }
}

// Reads every array that a file of the fixtures' kinds holds.
void read_all(const Bytes& bytes, const std::string& name) {
    const TorchFile file(bytes, name);
    for (Pickle::Ref i = 0; i < file.pickle().count(); ++i) {
        const Pickle::Node& node = file.pickle().at(i);
        if (file.is_array(node)) file.array(node, "a value").read<double>();
    }
}

// A pickle of one text, followed by STOP.
Bytes pickle_of(const std::string& code) { return {code.begin(), code.end()}; }

}  // namespace

TEST_CASE("checkpoints of torch.save read as torch.load reads them", "[data][torch]") {
    const json expected = read_json("ckpt.json");
    const std::map<std::string, std::string> dtypes = {{"torch.float32", "F32"},
                                                       {"torch.float16", "F16"},
                                                       {"torch.bfloat16", "BF16"},
                                                       {"torch.int64", "I64"}};
    for (const char* name : {"ckpt_zip.pth", "ckpt_legacy.pth"}) {
        const Bytes bytes = fixture(name);
        const TorchFile file(bytes, name);
        const Pickle::Node* model = file.pickle().find(file.root(), "model");
        REQUIRE(model != nullptr);
        size_t seen = 0;
        for (const auto& [key, value] : expected.items()) {
            INFO(name << " " << key);
            const Pickle::Node* node = file.pickle().find(*model, key);
            REQUIRE(node != nullptr);
            const TorchArray array = file.array(*node, key);
            CHECK(array.dtype == dtypes.at(value["dtype"].get<std::string>()));
            CHECK(array.shape == value["shape"].get<std::vector<int64_t>>());
            std::vector<double> values;
            flatten(value["values"], values);
            CHECK(array.read<double>() == values);
            ++seen;
        }
        CHECK(seen == 12);
    }
}

TEST_CASE("label files read as torch.load reads them, arrays and tensors of either size", "[data][torch]") {
    const json expected = read_json("fkd.json");
    for (const char* name :
         {"fkd_numpy.tar", "fkd_numpy_fp16.tar", "fkd_numpy_legacy.tar", "fkd_tensor.tar"}) {
        const Bytes bytes = fixture(name);
        const TorchFile file(bytes, name);
        REQUIRE(file.root().items.size() == 3);
        const bool half = std::string(name) == "fkd_numpy_fp16.tar";
        size_t part = 0;
        for (const char* key : {"coords", "flip", "label"}) {
            INFO(name << " " << key);
            const TorchArray array = file.array(file.pickle().at(file.root().items[part++]), key);
            CHECK(array.dtype == (std::string(key) == "flip" ? "BOOL" : half ? "F16" : "F32"));
            std::vector<double> values;
            flatten(expected[key], values);
            const std::vector<double> read = array.read<double>();
            REQUIRE(read.size() == values.size());
            for (size_t i = 0; i < read.size(); ++i) {
                // Half precision keeps 11 bits: a rounding of at most 2^-11 of the value.
                CHECK(std::abs(read[i] - values[i]) <= (half ? std::abs(values[i]) / 2048 : 0.0));
            }
        }
    }
}

TEST_CASE("a pickle that would run a command runs none, and its tensors can be read",
          "[data][torch][bad-input]") {
    const std::filesystem::path trace = "/tmp/unpickled_code_ran";
    std::filesystem::remove(trace);
    const Bytes bytes = fixture("ckpt_evil.pth");
    const TorchFile file(bytes, "evil.pth");
    const Pickle::Node* model = file.pickle().find(file.root(), "model");
    REQUIRE(model != nullptr);
    const TorchArray weight = file.array(*file.pickle().find(*model, "0.weight"), "0.weight");
    CHECK(weight.read<float>().size() == 35);
    const Pickle::Node* x = file.pickle().find(file.root(), "x");
    REQUIRE(x != nullptr);
    CHECK(x->kind == Pickle::Kind::call);
    CHECK(file.pickle().calls(*x, "posix.system"));
    CHECK(refuses("posix.system", [&] { file.array(*x, "x"); }));
    CHECK_FALSE(std::filesystem::exists(trace));
}

TEST_CASE("what is written reads back, here and in its bytes", "[data][torch]") {
    const std::vector<float> numbers{1.5F, -2.0F, 0.25F, 1e-30F, 3.0F, 4.0F};
    const Bytes flags{1, 0, 1};
    const TorchValue::List list = {
        {TorchTensor{"F32", {2, 3}, {reinterpret_cast<const uint8_t*>(numbers.data()), 24}}},
        {TorchTensor{"BOOL", {3}, flags}}};
    const Bytes bytes = write_torch({list}, "some");
    const TorchFile file(bytes, "some.tar");
    const TorchArray first = file.array(file.pickle().at(file.root().items.at(0)), "first");
    CHECK(first.shape == std::vector<int64_t>{2, 3});
    CHECK(first.read<float>() == numbers);
    CHECK(file.array(file.pickle().at(file.root().items.at(1)), "second").read<float>() ==
          std::vector<float>{1, 0, 1});
    CHECK(bytes == write_torch({list}, "some"));
}

TEST_CASE("truncated files of torch.save are refused by name", "[data][torch][bad-input]") {
    for (const std::string name :
         {"fkd_tensor.tar", "fkd_numpy_legacy.tar", "ckpt_legacy.pth", "ckpt_zip.pth"}) {
        const Bytes whole = fixture(name);
        for (size_t size = 0; size < whole.size(); size += size < 200 ? 1 : 13) {
            INFO(name << " cut to " << size << " of " << whole.size());
            const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
            CHECK(refuses(name, [&] { read_all(cut, name); }));
        }
    }
}

TEST_CASE("damaged files of torch.save are refused or read, never worse", "[data][torch][bad-input]") {
    engine::Random random(5);
    int refused = 0;
    for (const std::string name :
         {"fkd_numpy_legacy.tar", "ckpt_legacy.pth", "fkd_tensor.tar", "ckpt_zip.pth"}) {
        const Bytes whole = fixture(name);
        for (int trial = 0; trial < 1500; ++trial) {
            Bytes broken = whole;
            for (uint64_t hit = 0; hit <= random.below(3); ++hit) {
                broken[random.below(broken.size())] = static_cast<uint8_t>(random.bits());
            }
            try {
                read_all(broken, name);
            } catch (const engine::Error& error) {
                REQUIRE(error.fault() == engine::Fault::input);
                ++refused;
            }
        }
    }
    CHECK(refused > 2000);  // every zip whose content changed fails its checksum
}

TEST_CASE("pickles that ask for the impossible are refused", "[data][torch][bad-input]") {
    using namespace std::string_literals;
    const std::string cases[] = {""s,
                                 "."s,                            // nothing on the stack
                                 "\x80\x02(."s,                   // a mark is no value
                                 "\x80\x02t."s,                   // no mark
                                 "\x80\x02h\x05."s,               // an unknown memo number
                                 "\x80\x02Nr\xFF\xFF\xFF\x7F."s,  // a memo number out of range
                                 "\x80\x02X\xFF\xFF\xFF\x7F."s,   // a text longer than the stream
                                 "\x80\x04\x8D\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF."s,
                                 "\x80\x02}(Nu."s,             // a key without a value
                                 "\x80\x02NNa."s,              // None has no append
                                 "\x80\x02cposix\nsystem"s,    // a name without its end
                                 "\x80\x02\xFE."s,             // no such opcode
                                 "\x80\x02K\x01K\x02\x93."s};  // a class named by numbers
    for (const std::string& code : cases) {
        INFO(code);
        const Bytes bytes = pickle_of(code);
        CHECK(refuses("odd.pkl", [&] { Pickle(bytes, "odd.pkl"); }));
    }
    // A list within itself, and a hundred thousand lists within each other, are fine.
    const Bytes self = pickle_of("\x80\x02]q\0h\0a."s);
    CHECK(Pickle(self, "self").root().items.size() == 1);
    const Bytes deep = pickle_of("\x80\x02" + std::string(100000, ']') + std::string(99999, 'a') + ".");
    CHECK(Pickle(deep, "deep").root().kind == Pickle::Kind::list);
    // Five million values in a file of five million bytes are too many.
    const Bytes many = pickle_of("\x80\x02" + std::string(5000000, 'N') + ".");
    CHECK(refuses("many", [&] { Pickle(many, "many"); }));
}

TEST_CASE("tensors beyond their storage are refused before memory is taken", "[data][torch][bad-input]") {
    // The pickle of a written file, with its shape (2, 3) and strides (3, 1) changed.
    const std::vector<float> numbers(6);
    const TorchValue::List list = {
        {TorchTensor{"F32", {2, 3}, {reinterpret_cast<const uint8_t*>(numbers.data()), 24}}}};
    const Bytes whole = write_torch({list}, "t");
    const auto files = read_zip(whole, "t");
    const Bytes pickle(files.at("t/data.pkl").begin(), files.at("t/data.pkl").end());
    const auto with_shape = [&](int64_t rows, int64_t columns, int64_t stride) {
        Bytes changed = pickle;
        std::vector<int64_t> wanted{6, 0, rows, columns, stride, 1};  // count, offset, shape, strides
        size_t at = 0;
        for (size_t i = 0; i + 10 <= changed.size() && at < wanted.size(); ++i) {
            if (changed[i] != 0x8A || changed[i + 1] != 8) continue;
            for (int byte = 0; byte < 8; ++byte) {
                changed[i + 2 + static_cast<size_t>(byte)] = static_cast<uint8_t>(wanted[at] >> (8 * byte));
            }
            i += 9;
            ++at;
        }
        REQUIRE(at == wanted.size());
        const Bytes data(files.at("t/data/0").begin(), files.at("t/data/0").end());
        const Bytes bytes = write_zip({{"t/data.pkl", changed}, {"t/data/0", data}});
        read_all(bytes, "t.tar");
    };
    CHECK_NOTHROW(with_shape(2, 3, 3));
    CHECK_NOTHROW(with_shape(6, 1, 1));
    CHECK_NOTHROW(with_shape(0, 3, 3));
    for (const auto& [rows, columns, stride] : {std::tuple<int64_t, int64_t, int64_t>{3, 3, 3},
                                                {2, 4, 3},
                                                {2, 3, 4},
                                                {INT64_MAX, 1, 1},
                                                {int64_t{1} << 40, int64_t{1} << 40, 0},
                                                {int64_t{1} << 30, 1, 0},
                                                {-1, 3, 3},
                                                {2, 3, -3},
                                                {2, 3, INT64_MAX}}) {
        INFO(rows << " x " << columns << " by " << stride);
        const int64_t r = rows, c = columns, s = stride;
        CHECK(refuses("t.tar", [&] { with_shape(r, c, s); }));
    }
}
