// State files of every format against the values that PyTorch gives.
#include "data/state_file.h"

#include <nlohmann/json.hpp>

#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;
using nlohmann::json;

namespace {

void flatten(const json& nested, std::vector<double>& out) {
    if (nested.is_array()) {
        for (const json& each : nested) flatten(each, out);
    } else {
        out.push_back(nested.get<double>());
    }
}

}  // namespace

TEST_CASE("state files: safetensors, zip (stored and deflated) and legacy containers hold the same values",
          "[data]") {
    const Bytes text = fixture("ckpt.json");
    const json expected = json::parse(text.begin(), text.end());
    for (const char* name : {"ckpt.safetensors", "ckpt_zip.pth", "ckpt_deflated.pth", "ckpt_legacy.pth"}) {
        const StateFile file(fixture_path(name));
        size_t compared = 0;
        for (const auto& [key, value] : expected.items()) {
            INFO(name << " " << key);
            if (!file.contains(key)) continue;  // safetensors has no views
            CHECK(file.entry(key).shape == value["shape"].get<std::vector<int64_t>>());
            std::vector<double> values;
            flatten(value["values"], values);
            CHECK(file.read<double>(key) == values);
            ++compared;
        }
        CHECK(compared == file.entries().size());
        CHECK(compared >= 10);
        CHECK(refuses("no.such", [&] { file.read<float>("no.such"); }));
    }
}

TEST_CASE("state files: the wrapper of several GPUs and OrderedDict", "[data]") {
    const StateFile file(fixture_path("state_dict_module.pth"));  // made by tests/state_dict_fixtures.py
    REQUIRE(file.entries().size() == 2);
    CHECK(file.read<float>("fc.weight") == std::vector<float>{0, 1, 2, 3, 4, 5});
    CHECK(file.read<float>("fc.bias") == std::vector<float>{0.5F, -0.5F});
    CHECK(file.entry("fc.bias").stored == "module.fc.bias");

    const Scratch scratch;  // the same in safetensors, where one name is there with the prefix and without
    const float two[] = {1, 2};
    const auto view = [&](const std::string& name, size_t i) {
        return TensorBytes{name, "F32", {1}, {reinterpret_cast<const uint8_t*>(&two[i]), sizeof *two}};
    };
    write_safetensors(scratch / "a.safetensors", {view("module.a", 0), view("module.b", 0), view("b", 1)},
                      {});
    const StateFile both(scratch / "a.safetensors");
    REQUIRE(both.entries().size() == 3);
    CHECK(both.read<float>("a") == std::vector<float>{1});
    CHECK(both.read<float>("b") == std::vector<float>{2});
    CHECK(both.read<float>("module.b") == std::vector<float>{1});
    CHECK(both.bytes("a").size() == sizeof *two);
}

TEST_CASE("state files: tensors without elements, parameters with attributes, and kinds that are not read",
          "[data][bad-input]") {
    const StateFile file(fixture_path("state_dict_odd.pth"));
    CHECK(file.entry("empty").shape == std::vector<int64_t>{2, 0, 3});
    CHECK(file.bytes("empty").empty());
    CHECK(file.entry("none").shape == std::vector<int64_t>{0, 3});
    CHECK(file.read<float>("none").empty());
    CHECK(file.read<float>("p") == std::vector<float>{1, 2});
    CHECK(refuses("'s', but an object of 'torch._utils._rebuild_sparse_tensor'",
                  [] { StateFile{fixture_path("state_dict_sparse.pth")}; }));
    CHECK(refuses("'w': write it as a contiguous tensor",
                  [] { StateFile{fixture_path("state_dict_expanded.pth")}; }));
}

TEST_CASE("state files: what a pickle would call is never called", "[data][bad-input]") {
    const Scratch scratch;
    const StateFile evil(fixture_path("ckpt_evil.pth"));
    for (const auto& [name, entry] : evil.entries()) {
        INFO(name);
        CHECK_FALSE(entry.dtype.empty());  // tensors alone; whatever else there is stays closed
    }
    const Bytes labels = fixture("fkd_tensor.tar");
    write_bytes(scratch / "labels.pth", labels);
    CHECK(refuses("labels.pth' holds no state", [&] { StateFile{scratch / "labels.pth"}; }));
    write_bytes(scratch / "empty", {});
    CHECK(refuses("empty", [&] { StateFile{scratch / "empty"}; }));
}

TEST_CASE("state files: cut ones are refused at every length", "[data][bad-input]") {
    const Scratch scratch;
    for (const char* name : {"ckpt.safetensors", "ckpt_zip.pth", "ckpt_deflated.pth", "ckpt_legacy.pth"}) {
        const Bytes whole = fixture(name);
        for (size_t size = 0; size < whole.size(); ++size) {
            INFO(name << " cut to " << size);
            write_bytes(scratch / "cut.pth",
                        Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)));
            CHECK(refuses("cut.pth", [&] { StateFile{scratch / "cut.pth"}; }));
        }
    }
}
