// One byte changed, or the end cut off: of small files of every kind. Each is refused by name, or gives
// values; where the format has checksums, the right ones.
#include <zlib.h>

#include "data/fkd_labels.h"
#include "data/idx.h"
#include "data/torch_file.h"
#include "engine/random.h"
#include "tests/cost.h"
#include "tests/fuzz/targets.h"
#include "tests/jpeg_writer.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;

namespace {

template <typename T>
void append(Bytes& to, const std::vector<T>& values) {
    const auto* from = reinterpret_cast<const uint8_t*>(values.data());
    to.insert(to.end(), from, from + values.size() * sizeof(T));
}

// The values of files with checksums.
Bytes torch_values(std::span<const uint8_t> bytes) {
    const TorchFile file(bytes, "some.file");
    Bytes values;
    for (Pickle::Ref i = 0; i < file.pickle().count(); ++i) {
        const Pickle::Node& node = file.pickle().at(i);
        if (file.is_array(node)) append(values, file.array(node, "a value").read<double>());
    }
    return values;
}

Bytes label_values(std::span<const uint8_t> bytes) {
    PictureLabels labels;
    parse_fkd(bytes, "some.file", LabelType::marginal_smoothing_k5, labels);
    Bytes values = labels.own_flips;
    append(values, labels.own_coords);
    append(values, labels.own_index);
    append(values, labels.own_value);
    return values;
}

Bytes idx_values(std::span<const uint8_t> bytes) { return parse_idx(bytes, "some.file", 3).values; }

Bytes png_values(std::span<const uint8_t> bytes) { return decode_image(bytes, "some.file").rgb; }

Bytes idx_file() {
    Bytes file{0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5};
    for (uint8_t i = 0; i < 60; ++i) file.push_back(i);
    return file;
}

Bytes zipped(const Bytes& bytes) {
    const Scratch scratch;
    gzFile out = gzopen((scratch / "gz").c_str(), "wb");
    gzwrite(out, bytes.data(), static_cast<unsigned>(bytes.size()));
    gzclose(out);
    return read_file(scratch / "gz", "");
}

Bytes small_jpeg() {
    const Scratch scratch;
    Image image{18, 24, Bytes(18 * 24 * 3)};
    for (size_t i = 0; i < image.rgb.size(); ++i) image.rgb[i] = static_cast<uint8_t>(i * i / 7);
    write_jpeg(scratch / "x.jpg", image);
    return read_file(scratch / "x.jpg", "");
}

}  // namespace

TEST_CASE("one changed byte, or a file cut anywhere, is refused by name or read", "[data][bad-input]") {
    const auto file = [](const std::string& name) { return read_file(VVTQ_SOURCE_DIR "/tests/" + name, ""); };
    const std::string config =
        "# flags\nepochs = 3\nlr = 0.5  # text\nmodel = \"deit_nano\"\nscale = [0.5, 1.0]\nno-aug = true\n";
    Bytes cifar(2 * 3073);
    for (size_t i = 0; i < cifar.size(); ++i) cifar[i] = static_cast<uint8_t>(i % 3073 == 0 ? 7 : i * 31);
    constexpr int kMany = kSanitized ? 1000 : 10'000;
    struct Kind {
        const char* name;
        const char* target;
        Bytes whole;
        Bytes (*values)(std::span<const uint8_t>) = nullptr;
        int changes = kMany;
    };
    const Kind kinds[] = {
        {"zip", "torch", file("fixtures/ckpt_zip.pth"), torch_values},
        {"deflated zip", "torch", file("fixtures/ckpt_deflated.pth"), torch_values},
        {"legacy", "torch", file("fixtures/ckpt_legacy.pth")},
        {"label zip", "label_tree", file("fixtures/fkd_tensor.tar"), label_values},
        {"label legacy", "label_tree", file("fixtures/fkd_numpy_legacy.tar")},
        {"idx", "idx", idx_file()},
        {"zipped idx", "idx", zipped(idx_file()), idx_values},
        {"cifar10", "cifar10", cifar},
        {"JPEG", "jpeg", small_jpeg()},
        {"progressive JPEG", "jpeg", file("pictures/picture_progressive.jpg"), nullptr, kMany / 20},
        {"PNG", "png", file("pictures/palette.png"), png_values},
        {"16-bit PNG", "png", file("pictures/rgb16.png"), png_values, kMany / 10},
        {"BMP", "bitmap", file("pictures/palette.bmp")},
        {"PPM", "bitmap", file("pictures/color.ppm")},
        {"config", "config", Bytes(config.begin(), config.end())},
    };
    for (const Kind& kind : kinds) {
        const FuzzTarget* target = find_fuzz_target(kind.target);
        REQUIRE(target != nullptr);
        const Bytes right = kind.values != nullptr ? kind.values(kind.whole) : Bytes();
        // The target lets out what is not an error of the input that names the file.
        const auto read = [&](std::span<const uint8_t> bytes, size_t at) {
            target->run(bytes);
            if (kind.values == nullptr) return;
            try {
                if (kind.values(bytes) != right) engine::run_error("other values, byte ", at);
            } catch (const engine::Error& error) {
                if (error.fault() != engine::Fault::input) throw;
            }
        };
        const Cost cost = cost_of([&] {
            engine::Random random(17);
            Bytes broken = kind.whole;
            for (int change = 0; change < kind.changes; ++change) {
                const size_t at = random.below(broken.size());
                broken[at] = static_cast<uint8_t>(broken[at] + 1 + random.below(255));
                read(broken, at);
                broken[at] = kind.whole[at];
            }
            const size_t step = std::max<size_t>(1, kind.whole.size() / (kSanitized ? 500 : 6000));
            for (size_t size = 0; size < kind.whole.size(); size += step) {
                target->run(std::span(kind.whole).first(size));
            }
        });
        INFO(kind.name << ": " << cost.seconds << " s, " << cost.mebibytes << " MiB, " << cost.error);
        CHECK(cost.ended);
        CHECK(cost.error.empty());
        if (!kSanitized) CHECK(cost.mebibytes < 1024);
        if (std::getenv("VVTQ_COSTS") != nullptr) {
            std::fprintf(stderr, "%-20s %6.2f s %5ld MiB\n", kind.name, cost.seconds,
                         static_cast<long>(cost.mebibytes));
        }
    }
}

TEST_CASE("what fuzzing found stays mended", "[data][bad-input]") {
    namespace fs = std::filesystem;
    for (const FuzzTarget& target : fuzz_targets()) {
        const fs::path kept = fs::path(VVTQ_SOURCE_DIR "/tests/fixtures/fuzz") / target.name;
        if (!fs::exists(kept)) continue;
        for (const auto& entry : fs::directory_iterator(kept)) {
            INFO(entry.path().string());
            const Bytes bytes = read_file(entry.path().string(), "check out again");
            const Cost cost = cost_of([&] { target.run(bytes); });
            INFO(cost.error);
            CHECK(cost.ended);
            CHECK(cost.error.empty());
            if (!kSanitized) CHECK(cost.seconds < 10);
            if (!kSanitized) CHECK(cost.mebibytes < 1024);
        }
    }
}
