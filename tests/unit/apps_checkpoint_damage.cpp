// A damaged checkpoint is refused by its name, or holds the right values: never others.
#include <random>

#include "apps/commands/model_setup.h"
#include "apps/training/checkpoint.h"
#include "apps/training/torch_checkpoint.h"
#include "quant/calibrate.h"
#include "tests/catch.h"
#include "tests/golden_inputs.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::DType;

namespace {

/// A small quantized checkpoint.
void save_small(const std::string& path) {
    apps::CheckpointInfo info;
    info.model = nn::model_config("deit_nano_patch4_28");
    info.model.img_size = 8;
    info.model.embed_dim = 4;
    info.model.num_heads = 1;
    info.model.depth = 1;
    info.model.mlp_ratio = 1;
    const auto model = nn::make_model(info.model, DType::f32, 3);
    apps::attach_quantizers(*model, {3, 3, false, false, false});
    quant::calibrate_weights(*model);
    quant::calibrate_activations(
        *model, nn::Tensor::from(uniform01("images", 2 * 3 * 8 * 8), {2, 3, 8, 8}, DType::f32));
    nn::Adamw optimizer(model->parameters(), {});
    info.command = "train";
    info.quantized = true;
    info.recipe = {{"wbits", "3"}, {"abits", "3"}, {"fixed-scale", "false"}, {"lr", "0.1"}};
    info.class_names = {"a", "b"};
    apps::save_checkpoint(path, info, *model, optimizer);
}

std::map<std::string, data::Bytes> values_of(const data::StateFile& file) {
    std::map<std::string, data::Bytes> values;
    for (const auto& [name, entry] : file.entries()) values[name] = file.bytes(name);
    return values;
}

/// Opens the file. False where it is refused; its values are `expected` where it is not. `message`: the
/// refusal.
bool opens(const std::string& path, const std::map<std::string, data::Bytes>& expected,
           std::string* message = nullptr) {
    try {
        const apps::Checkpoint checkpoint(path, "--resume");
        if (values_of(checkpoint.file()) != expected) FAIL("other values");
        return true;
    } catch (const engine::Error& error) {
        const std::string text = error.what();
        if (error.fault() != engine::Fault::input || text.find(path) == std::string::npos) FAIL(text);
        if (message != nullptr) *message = text;
        return false;
    }
}

/// Where the tensors of a safetensors file begin.
size_t data_begin(const data::Bytes& bytes) {
    size_t header = 0;
    std::memcpy(&header, bytes.data(), sizeof(uint64_t));
    return sizeof(uint64_t) + header;
}

}  // namespace

TEST_CASE("every flipped bit of a checkpoint is noticed, in a tensor by its name") {
    const Scratch scratch;
    const std::string path = scratch / "a.safetensors";
    save_small(path);
    const auto expected = values_of(data::StateFile(path));
    CHECK(opens(path, expected));
    const data::Bytes whole = data::read_file(path, "");
    std::mt19937_64 random(11);
    const auto noticed = [&](size_t begin, size_t end, int count, const char* names) {
        for (int i = 0; i < count; ++i) {
            const size_t at = begin + random() % (end - begin);
            data::Bytes changed = whole;
            changed[at] ^= static_cast<uint8_t>(1U << random() % 8);
            write_bytes(path, changed);
            std::string message;
            INFO("byte " << at);
            CHECK_FALSE(opens(path, expected, &message));
            CHECK(message.find(names) != std::string::npos);
        }
    };
    noticed(data_begin(whole), whole.size(), 240, "the checksum of tensor '");
    noticed(0, data_begin(whole), 300, "");
}

TEST_CASE("a checkpoint cut short at any byte is refused") {
    const Scratch scratch;
    const std::string path = scratch / "a.safetensors";
    save_small(path);
    const auto expected = values_of(data::StateFile(path));
    const data::Bytes whole = data::read_file(path, "");
    int opened = 0;
    for (size_t size = 0; size < whole.size(); ++size) {
        write_bytes(path, {whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)});
        opened += opens(path, expected) ? 1 : 0;
    }
    CHECK(opened == 0);
}

TEST_CASE("10,000 changed bytes of each kind of checkpoint give an error or the right values") {
    const Scratch scratch;
    save_small(scratch / "a.safetensors");
    const data::StateFile file(scratch / "a.safetensors");
    std::vector<apps::StoredTensor> tensors;
    for (const auto& [name, entry] : file.entries()) {
        tensors.push_back({name, entry.dtype, entry.shape, file.bytes(name)});
    }
    apps::TorchExtras extras;
    extras.metadata = file.metadata();
    write_bytes(scratch / "a.pth", apps::torch_checkpoint(tensors, extras));
    const auto expected = values_of(file);
    for (const char* name : {"a.safetensors", "a.pth"}) {
        const std::string path = scratch / name;
        REQUIRE(opens(path, expected));
        const data::Bytes whole = data::read_file(path, "");
        std::mt19937_64 random(12);
        int refused = 0;
        constexpr int kCount = 10000;
        for (int i = 0; i < kCount; ++i) {
            data::Bytes changed = whole;
            uint8_t& byte = changed[random() % changed.size()];
            byte = static_cast<uint8_t>(byte + 1 + random() % 255);
            write_bytes(path, changed);
            refused += opens(path, expected) ? 0 : 1;
        }
        INFO(name);
        CHECK(refused > kCount / 2);
    }
}
