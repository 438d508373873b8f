// `vvtq export`: packed files are read wherever a checkpoint is, and bad input is refused in one line.
#include <filesystem>
#include <random>

#include "apps/commands/onnx_file.h"
#include "apps/training/checkpoint.h"
#include "tests/model_files.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace fs = std::filesystem;

namespace {

/// The small models with the quantized one packed.
struct Packed : Files {
    std::string packed = scratch / "packed.safetensors", out = scratch / "out.safetensors";
    std::string validation = data + "/val";

    Packed() { done("export " + q + " " + packed); }
    std::string all_logits(const std::string& checkpoint, const std::string& rest = "") const {
        return predict(checkpoint, "--json --logits " + rest + " " + validation);
    }
    /// Trains with other bits; `name` is the folder.
    std::string trained(const std::string& name, const std::string& flags) const {
        done("train " + flags + " --finetune " + fp + run(name));
        return scratch / (name + "/checkpoint.safetensors");
    }
    /// The packed file without checksums, with its metadata or tensors changed.
    using Change = std::function<void(std::map<std::string, std::string>& metadata,
                                      std::vector<data::TensorBytes>& tensors)>;
    std::string changed(const Change& change) const {
        const auto file = data::SafeTensors::open(packed);
        std::vector<data::TensorBytes> tensors;
        for (const auto& [tensor, entry] : file.entries()) {
            tensors.push_back({tensor, entry.dtype, entry.shape, file.bytes(tensor)});
        }
        auto metadata = file.metadata();
        change(metadata, tensors);
        data::write_safetensors(scratch / "changed.safetensors", tensors, metadata);
        return scratch / "changed.safetensors";
    }
};

void replace(std::string& text, const std::string& from, const std::string& to) {
    const size_t at = text.find(from);
    REQUIRE(at != text.npos);
    text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("a packed file gives the checkpoint's logits bit for bit, whatever the bits") {
    const Packed files;
    CHECK(files.all_logits(files.packed) == files.all_logits(files.q));
    CHECK(fs::file_size(files.packed) * 3 < fs::file_size(files.q));
    for (const std::string bits : {"1 --abits 1", "2 --abits 2", "8 --abits 8", "32 --abits 3",
                                   "4 --abits 32", "3 --abits 3 --head-wise"}) {
        INFO(bits);
        const std::string from = files.trained("bits", "--wbits " + bits);
        files.done("export " + from + " " + files.out);
        CHECK(files.all_logits(files.out) == files.all_logits(from));
        fs::remove_all(files.scratch / "bits");
    }
    // packed again it is the same file
    files.done("export " + files.packed + " " + files.out);
    CHECK(bytes_of(files.out) == bytes_of(files.packed));
}

TEST_CASE("floats of 16 bits keep the codes and are close") {
    const Packed files;
    files.done("export --float16 " + files.q + " " + files.out);
    CHECK(fs::file_size(files.out) < fs::file_size(files.packed));
    const data::SafeTensors half = data::SafeTensors::open(files.out),
                            whole = data::SafeTensors::open(files.packed);
    const auto codes = [](const data::SafeTensors& file) {
        const auto bytes = file.bytes("codes");
        return data::Bytes(bytes.begin(), bytes.end());
    };
    CHECK(codes(half) == codes(whole));
    CHECK_FALSE(half.contains("f32"));  // DeiT has no running statistics
    const auto a = files.logits(files.out, files.picture), b = files.logits(files.q, files.picture);
    REQUIRE(a.size() == b.size());
    for (size_t i = 0; i < a.size(); ++i) CHECK(std::abs(a[i] - b[i]) < 0.1);
    // and twice through 16 bits is once
    files.done("export --float16 " + files.out + " " + files.scratch / "again.safetensors");
    CHECK(bytes_of(files.scratch / "again.safetensors") == bytes_of(files.out));
}

TEST_CASE("a packed file stands wherever a checkpoint is named") {
    const Packed files;
    const std::string evaluate = "train --evaluate --device cpu --data " + files.data + " --resume ";
    CHECK(files.done(evaluate + files.packed).substr(0, 5) == files.done(evaluate + files.q).substr(0, 5));
    const auto accuracy = [](const std::string& out) { return out.substr(out.rfind(" * Acc@1")); };
    CHECK(accuracy(files.done(evaluate + files.packed)) == accuracy(files.done(evaluate + files.q)));
    const std::string label =
        "softlabel --device cpu -j 1 --crops-per-image 2 --soft_label_type ori --data " + files.data +
        " --teacher ";
    files.done(label + files.packed + " --softlabel_path " + files.scratch / "a.labels");
    files.done(label + files.q + " --softlabel_path " + files.scratch / "b.labels");
    const auto labels = [&](const std::string& name) {
        constexpr std::ptrdiff_t kHeader = 128;  // with a hash of the teacher's file
        const data::Bytes file = bytes_of(files.scratch / name);
        REQUIRE(file.size() > kHeader);
        return data::Bytes(file.begin() + kHeader, file.end());
    };
    CHECK(labels("a.labels") == labels("b.labels"));
    // steps and all are taken; the weights are those in the middle of their bins
    CHECK(
        has(files.done("train --wbits 3 --abits 4 --keep-steps --finetune " + files.packed + files.run("on")),
            "step sizes of the checkpoint are kept"));
    files.refused("train --data " + files.data + " --resume " + files.packed + " --save_checkpoint_path " +
                      files.scratch / "on",
                  {files.packed, "optimizer.", "--finetune"});
    // unpacked it is a checkpoint, in either container
    for (const std::string name : {"unpacked.safetensors", "unpacked.pth"}) {
        const std::string unpacked = files.scratch / name;
        files.done("convert " + files.packed + " " + unpacked);
        CHECK(files.all_logits(unpacked) == files.all_logits(files.q));
        files.done("export " + unpacked + " " + files.out);
        CHECK(bytes_of(files.out) == bytes_of(files.packed));
    }
    const data::StateFile checkpoint(files.q), unpacked(files.scratch / "unpacked.safetensors");
    for (const auto& [name, entry] : checkpoint.entries()) {
        if (name.starts_with("optimizer.")) continue;
        INFO(name);
        REQUIRE(unpacked.contains(name));
        CHECK(unpacked.entry(name).shape == entry.shape);
    }
    // of another program's file, with the flags that say what it holds
    const std::string published = files.published(files.q);
    files.done("export " + published + " " + files.out + kModel);
    CHECK(files.logits(files.out, "--center-crop " + files.picture) ==
          files.logits(files.q, "--center-crop " + files.picture));
}

TEST_CASE("every flipped bit and every cut of a packed file is refused in one line") {
    const Packed files;
    const data::Bytes whole = bytes_of(files.packed);
    std::mt19937_64 random(5);
    const std::string path = files.scratch / "damaged.safetensors";
    const auto refuses_to_open = [&](const data::Bytes& bytes) {
        write_bytes(path, bytes);
        return refuses("damaged.safetensors", [&] { apps::Checkpoint{path, "CKPT"}; });
    };
    for (int i = 0; i < 400; ++i) {
        data::Bytes damaged = whole;
        const size_t at = random() % damaged.size();
        damaged[at] ^= static_cast<uint8_t>(1U << random() % 8);
        INFO("byte " << at);
        CHECK(refuses_to_open(damaged));
    }
    for (size_t size = 0; size < whole.size(); size += 101) {
        CHECK(refuses_to_open({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)}));
    }
    data::Bytes flipped = whole;
    flipped[flipped.size() - 100] ^= 1;
    write_bytes(path, flipped);
    files.refused("predict " + path + " " + files.picture, {path, "checksum", "'codes'"});
    write_bytes(path, {whole.begin(), whole.end() - 100});
    files.refused("export " + files.q + " " + files.q, {files.q, "is the checkpoint itself"});
    files.refused("export " + path + " " + files.out, {path, "truncated"});
    CHECK_FALSE(fs::exists(files.out));
}

TEST_CASE("a packed file whose lists do not fit its tensors is refused by what is wrong") {
    const Packed files;
    using Metadata = std::map<std::string, std::string>;
    using Tensors = std::vector<data::TensorBytes>;
    const auto refused = [&](const std::string& why, const Packed::Change& change) {
        INFO(why);
        files.refused("predict " + files.changed(change) + " " + files.picture, {"changed.safetensors", why});
    };
    const auto line = [](const std::string& from, const std::string& to, const char* table = "codes_table") {
        return [=](Metadata& metadata, Tensors&) { replace(metadata[table], from, to); };
    };
    const std::string weight = "blocks.0.mlp.fc1.weight 3 1 64 16";
    refused("'codes' ends within", line(weight, "blocks.0.mlp.fc1.weight 8 1 64 16000"));
    refused("tells of", line(weight, "blocks.0.mlp.fc1.weight 2 1 64 16"));
    for (const char* bad : {" 0 1 64 16", " 9 1 64 16", " 3 0 64 16", " 3 1 -64 16", " 3 1 64 x", " 3 1", "",
                            " 3 1 99999999999 99999999999 99999999999", " 3 1 0 16"}) {
        refused("a line of its tables is 'blocks.0.mlp.fc1.weight",
                line(weight, std::string("blocks.0.mlp.fc1.weight") + bad));
    }
    refused("no steps for 'blocks.0.mlp.fc1.weight'",
            line("blocks.0.mlp.fc1.alpha", "blocks.0.mlp.fc1.other", "f32_table"));
    refused("twice", line("blocks.0.norm2.weight 16", "blocks.0.norm1.weight 16", "f32_table"));
    refused("blocks.0.mlp.fc1.weight", line(weight, "blocks.0.mlp.fc1.weight 3 1 16 64"));
    refused("no steps for 'blocks.0.mlp.fc9.weight'", line("fc1.weight 3", "fc9.weight 3"));
    refused("its table of 'f32' is missing",
            [](Metadata& metadata, Tensors&) { metadata.erase("f32_table"); });
    refused("no codes", [](Metadata&, Tensors& tensors) {
        std::erase_if(tensors, [](const auto& tensor) { return tensor.name == "codes"; });
    });
    refused("of type I8", [](Metadata&, Tensors& tensors) {
        for (auto& tensor : tensors) tensor.dtype = tensor.name == "codes" ? "I8" : tensor.dtype;
    });
    refused("version 4", [](Metadata& metadata, Tensors&) { metadata["format_version"] = "4"; });
    // without a change it is read
    CHECK(files.all_logits(files.changed([](auto&, auto&) {})) == files.all_logits(files.q));
}

TEST_CASE("export refuses what it cannot write, in one line") {
    const Packed files;
    const std::string from = "export " + files.q + " ";
    files.refused("export " + files.fp + " " + files.out, {"full-precision", "--wbits"});
    files.refused(from + files.scratch / "x.bin", {"x.bin", ".safetensors", ".onnx"});
    files.refused(from + files.scratch / "none/x.safetensors", {"none/x.safetensors"});
    files.refused("export " + files.scratch / "none.safetensors " + files.out, {"none.safetensors"});
    files.refused("export " + files.q, {"vvtq export CKPT OUT"});
    files.refused(from + files.out + " --opset 21", {"--opset", ".onnx"});
    files.refused(from + files.out + " --style native", {"--style", ".onnx"});
    files.refused(from + files.out + " --wbits 2", {"--wbits", files.q});
    const std::string onnx = files.scratch / "x.onnx";
    files.refused(from + onnx + " --float16", {"--float16"});
    files.refused(from + onnx + " --style int4", {"--style", "int8-clip"});
    files.refused(from + onnx + " --input jpeg", {"--input", "pixels"});
    CHECK_FALSE(fs::exists(files.out));
    CHECK_FALSE(fs::exists(onnx));
    try {
        apps::require_onnx(onnx);
    } catch (const engine::Error&) {
        files.refused(from + onnx, {"x.onnx", "built without ONNX", "libonnx-dev"});
        return;
    }
    files.refused(from + onnx + " --opset 28", {"--opset 28", "20 to 27"});
    files.refused(from + onnx + " --opset 20", {"--opset 20", "4 bits"});
    files.refused(from + files.scratch / "none/x.onnx", {"none/x.onnx"});
    CHECK_FALSE(fs::exists(onnx));
    files.done(from + onnx);
    files.refused("export " + onnx + " " + files.out, {"is an ONNX file", ".safetensors"});
    files.done("export " + files.fp + " " + files.scratch / "fp.onnx");
    files.done("export " + files.packed + " " + files.scratch / "y.onnx");
    CHECK(bytes_of(onnx) == bytes_of(files.scratch / "y.onnx"));
}
