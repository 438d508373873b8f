#include "tests/fuzz/targets.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "apps/options/options.h"
#include "apps/training/packed_file.h"
#include "apps/training/torch_checkpoint.h"
#include "data/dataset.h"
#include "data/fkd_labels.h"
#include "data/idx.h"
#include "data/packed_format.h"
#include "data/packed_labels.h"
#include "data/picture_reader.h"
#include "data/shard_index.h"
#include "data/state_file.h"
#include "engine/check.h"
#include "tests/hostile_files.h"

namespace vvtq::tests {
namespace {

using namespace data;

// A file in memory that has a path.
class MemoryFile {
  public:
    explicit MemoryFile(std::span<const uint8_t> bytes) : descriptor_(::memfd_create("fuzz", MFD_CLOEXEC)) {
        if (descriptor_ < 0 || !write_all(descriptor_, bytes.data(), bytes.size())) {
            engine::run_error("no file in memory");
        }
    }
    MemoryFile(const MemoryFile&) = delete;
    MemoryFile& operator=(const MemoryFile&) = delete;
    ~MemoryFile() { ::close(descriptor_); }
    std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

  private:
    int descriptor_;
};

// An error of the input must be one line with the file's name and a remedy.
template <typename Action>
void expect_input_error(const std::string& name, Action action) {
    try {
        action();
    } catch (const engine::Error& error) {
        const std::string message = error.what();
        if (error.fault() != engine::Fault::input || message.find('\n') != std::string::npos ||
            message.find(name) == std::string::npos) {
            throw;
        }
    }
}

void read_state(std::span<const uint8_t> bytes) {
    const MemoryFile file(bytes);
    expect_input_error(file.path(), [&] {
        StateFile state(file.path());
        if (apps::is_packed(state.metadata())) apps::unpack(state, file.path());
        uint64_t read = 0;
        for (const auto& [name, entry] : state.entries()) {
            constexpr uint64_t kMost = 1 << 24;  // elements, as the program reads what its model has
            read += state.read<float>(name).size();
            if (read > kMost) break;
        }
    });
}

void read_labels(std::span<const uint8_t> bytes) {
    for (int type = 0; type <= static_cast<int>(LabelType::marginal_renorm); ++type) {
        PictureLabels labels;
        expect_input_error("x.tar", [&] { parse_fkd(bytes, "x.tar", static_cast<LabelType>(type), labels); });
    }
}

void read_pack(std::span<const uint8_t> bytes) {
    for (const Bytes& each : {Bytes(bytes.begin(), bytes.end()), mended(Bytes(bytes.begin(), bytes.end()))}) {
        const MemoryFile file(each);
        expect_input_error(file.path(), [&] {
            const PackedLabels packed = PackedLabels::open(file.path());
            packed.validate();
            const PackedNames names = packed.names();
            for (int64_t i = 0; i < packed.header().pictures; ++i) names.find(names.name(i));
        });
    }
}

// With right checksums too, which random changes would hardly ever have.
void read_index(std::span<const uint8_t> bytes) {
    Bytes each(bytes.begin(), bytes.end());
    expect_input_error("x.index", [&] { read_shard_index(each, "x.index"); });
    ShardIndexHeader header;
    if (each.size() < sizeof header) return;
    std::memcpy(&header, each.data(), sizeof header);
    header.body_check = checksum(std::span(each).subspan(sizeof header));
    header.check = header_check(header);
    std::memcpy(each.data(), &header, sizeof header);
    expect_input_error("x.index", [&] { read_shard_index(each, "x.index"); });
}

void read_idx_files(std::span<const uint8_t> bytes) {
    expect_input_error("x.idx", [&] { parse_idx(bytes, "x.idx", 1); });
    expect_input_error("x.idx", [&] { parse_idx(bytes, "x.idx", 3); });
}

void read_cifar10(std::span<const uint8_t> bytes) {
    expect_input_error("x.bin", [&] {
        std::vector<int> labels;
        Bytes pixels;
        parse_cifar10(bytes, "x.bin", labels, pixels);
    });
}

void read_picture(std::span<const uint8_t> bytes) {
    PictureReader reader;
    expect_input_error("x.jpg", [&] {
        reader.open_bytes(bytes, "x.jpg");
        reader.decode({0, 0, reader.height(), reader.width()});
    });
    expect_input_error("x.jpg", [&] {
        reader.open_bytes(bytes, "x.jpg");
        const int height = reader.height(), width = reader.width();
        reader.decode({height / 3, width / 4, height / 2, width / 3});
    });
}

// Only files that begin as the type does, so that each target stays with its own.
void read_jpeg(std::span<const uint8_t> bytes) {
    if (is_jpeg(bytes)) read_picture(bytes);
}

// With right checksums, which random changes would hardly ever have.
void read_png(std::span<const uint8_t> bytes) {
    if (!is_png(bytes)) return;
    read_picture(bytes);
    constexpr size_t kSignature = 8, kAround = 12;
    Bytes mended(bytes.begin(), bytes.end());
    for (size_t at = kSignature; at + kAround <= mended.size();) {
        uint32_t length = 0;
        for (size_t i = 0; i < 4; ++i) length = length << 8 | mended[at + i];
        if (length > mended.size() - at - kAround) break;
        const uint32_t sum = checksum(std::span(mended).subspan(at + 4, 4 + size_t{length}));
        for (size_t i = 0; i < 4; ++i)
            mended[at + 8 + length + i] = static_cast<uint8_t>(sum >> (24 - 8 * i));
        at += kAround + length;
    }
    read_picture(mended);
}

void read_bitmap(std::span<const uint8_t> bytes) {
    if (is_bmp(bytes) || is_ppm(bytes)) read_picture(bytes);
}

void read_config(std::span<const uint8_t> bytes) {
    const MemoryFile file(bytes);
    expect_input_error("", [&] { apps::parse_options({"train", "--config", file.path()}); });
}

}  // namespace

const std::vector<FuzzTarget>& fuzz_targets() {
    static const std::vector<FuzzTarget> targets = {
        {"torch",
         read_state,
         {"fixtures/ckpt_zip.pth", "fixtures/ckpt_legacy.pth", "fixtures/ckpt_deflated.pth",
          "fixtures/ckpt_evil.pth", "fixtures/state_dict_module.pth"}},
        {"safetensors", read_state, {"fixtures/ckpt.safetensors"}},
        {"label_tree",
         read_labels,
         {"fixtures/fkd_tensor.tar", "fixtures/fkd_numpy.tar", "fixtures/fkd_numpy_fp16.tar",
          "fixtures/fkd_numpy_legacy.tar"}},
        {"label_pack", read_pack, {}},
        {"shard_index", read_index, {}},
        {"idx", read_idx_files, {}},
        {"cifar10", read_cifar10, {}},
        {"jpeg",
         read_jpeg,
         {"fixtures/gray.jpg", "fixtures/cmyk.jpg", "fixtures/picture_q75_s0.jpg",
          "fixtures/picture_q90_s2.jpg", "pictures/picture_422.jpg", "pictures/picture_progressive.jpg",
          "pictures/picture_restart.jpg"}},
        {"png",
         read_png,
         {"pictures/bilevel.png", "pictures/gray16.png", "pictures/gray_alpha.png",
          "pictures/gray_alpha16.png", "pictures/palette.png", "pictures/rgb16.png", "pictures/rgba16.png"}},
        {"bitmap",
         read_bitmap,
         {"pictures/color.bmp", "pictures/gray.bmp", "pictures/palette.bmp", "pictures/rgba.bmp",
          "pictures/color.ppm", "pictures/gray.pgm"}},
        {"config", read_config, {"../recipes/cifar10/w2a2.toml", "../recipes/cifar10/pretrain.toml"}},
    };
    return targets;
}

const FuzzTarget* find_fuzz_target(const std::string& name) {
    for (const FuzzTarget& target : fuzz_targets()) {
        if (name == target.name) return &target;
    }
    return nullptr;
}

data::Bytes mended(data::Bytes bytes) {
    using namespace data;
    PackedHeader raw;
    if (bytes.size() < sizeof raw) return bytes;
    std::memcpy(&raw, bytes.data(), sizeof raw);
    const bool sane = raw.version == kPackedVersion && raw.crops <= kMostCrops &&
                      raw.classes <= kMostClasses &&
                      raw.type <= static_cast<uint32_t>(LabelType::marginal_renorm);
    if (sane) {
        const PackedLayout layout({static_cast<LabelType>(raw.type), 0, static_cast<int>(raw.crops),
                                   static_cast<int>(raw.classes)});
        const size_t whole = (bytes.size() - sizeof raw) / layout.size;
        const size_t records = raw.pictures < whole ? raw.pictures : whole;
        const std::span rest = std::span(bytes).subspan(sizeof raw);
        for (size_t i = 0; i < records; ++i) {
            const std::span record = rest.subspan(i * layout.size, layout.size);
            const uint32_t check = record_check(i, record, layout);
            std::memcpy(record.data() + layout.check_at, &check, sizeof check);
        }
        raw.names_check = checksum(rest.subspan(records * layout.size));
    }
    raw.check = header_check(raw);
    std::memcpy(bytes.data(), &raw, sizeof raw);
    return bytes;
}

void write_fuzz_seeds(const std::string& folder) {
    namespace fs = std::filesystem;
    for (const FuzzTarget& target : fuzz_targets()) {
        const fs::path to = fs::path(folder) / target.name;
        fs::create_directories(to);
        for (const char* seed : target.seeds) {
            const fs::path from = fs::path(VVTQ_SOURCE_DIR) / "tests" / seed;
            fs::copy_file(from, to / from.filename(), fs::copy_options::overwrite_existing);
        }
        const fs::path kept = fs::path(VVTQ_SOURCE_DIR) / "tests/fixtures/fuzz" / target.name;
        if (fs::exists(kept)) {
            fs::copy(kept, to, fs::copy_options::overwrite_existing | fs::copy_options::recursive);
        }
    }
    const auto write = [&](const char* name, const Bytes& bytes) {
        AtomicFile file((fs::path(folder) / name).string());
        file.write(bytes.data(), bytes.size());
        file.commit(false);
    };
    ShardIndex index;
    index.classes = {"cat", "dog"};
    index.files = {"cat/1.jpg", "dog/2.png"};
    index.records = {{512, 1000, 0, 0, 0, 0}, {3072, 1000, 0, 0, 1, 1}};
    index.shard_bytes = {10240};
    write("shard_index/index", write_shard_index(index));
    write("idx/labels", {0, 0, 8, 1, 0, 0, 0, 2, 3, 4});
    write("idx/images", {0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6});
    write("cifar10/batch", Bytes(2 * 3073, 5));
    write("jpeg/scans", blank_jpeg(40, 30, 3, 4));
    write("png/passes", blank_png(11, 9, 2, 3, true));
    write("png/passes16", blank_png(9, 11, 16, 0, true));
    for (const uint16_t bits : {1, 4, 16, 32}) {
        write(("bitmap/" + std::to_string(bits)).c_str(), plain_bmp(7, 5, bits, bits <= 8 ? 2 : 0, 0x35));
    }
    // A packed model, without checksums so that damage goes further.
    const std::string header =
        R"({"__metadata__":{"format":"vvtq-checkpoint","format_version":"3",)"
        R"("codes_table":"a.weight 3 2 2 3\n","f32_table":"a.alpha 2\n","f16_table":"a.bias 2\n"},)"
        R"("codes":{"dtype":"U8","shape":[3],"data_offsets":[12,15]},)"
        R"("f32":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
        R"("f16":{"dtype":"F16","shape":[2],"data_offsets":[8,12]}})";
    Bytes model(sizeof(uint64_t));
    model[0] = static_cast<uint8_t>(header.size());
    model[1] = static_cast<uint8_t>(header.size() >> 8);
    model.insert(model.end(), header.begin(), header.end());
    model.resize(model.size() + 15, 0x3C);
    write("safetensors/packed", model);
    // A checkpoint of torch with moments and metadata.
    const Bytes four(4), eight(8);
    const std::vector<apps::StoredTensor> state{{"a.weight", "F32", {2, 1}, eight},
                                                {"a.bias", "F32", {1}, four},
                                                {"optimizer.a.weight.exp_avg", "F32", {2, 1}, eight},
                                                {"optimizer.a.weight.exp_avg_sq", "F32", {2, 1}, eight},
                                                {"optimizer.a.bias.exp_avg", "F32", {1}, four},
                                                {"optimizer.a.bias.exp_avg_sq", "F32", {1}, four}};
    apps::TorchExtras extras;
    extras.metadata = {{"format", "some"}};
    const Bytes checkpoint = apps::torch_checkpoint(state, extras);
    std::ofstream(fs::path(folder) / "torch/checkpoint.pth", std::ios::binary)
        .write(reinterpret_cast<const char*>(checkpoint.data()),
               static_cast<std::streamsize>(checkpoint.size()));
    const fs::path pack = fs::path(folder) / "label_pack/pack";
    fs::remove(pack);
    PackedLabelWriter writer(pack.string(), {LabelType::smoothing, 0, 2, 3, 0, 1});
    for (int64_t i = 0; i < 2; ++i) {
        PictureLabels labels;
        const std::vector<Coords> coords{{0, 0, 0.5, 1}, {0.25, 0, 0.75, 0.5}};
        const std::vector<float> p{0.5F, 0.25F, 0.25F, 0.1F, 0.8F, 0.1F};
        pack_labels(LabelType::smoothing, coords, Bytes{0, 1}, p, labels);
        writer.append(i, "train/a/" + std::to_string(i), labels);
    }
    writer.finish();
}

}  // namespace vvtq::tests
