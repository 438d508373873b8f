// Soft labels: packing and recovery against the goldens, and the label file with all its refusals.
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/packed_labels.h"
#include "engine/random.h"
#include "tests/golden_inputs.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;
using nlohmann::json;

namespace {

constexpr int kPictures = 6, kCrops = 3, kClasses = 12;

std::vector<float> random_distribution(engine::Random& random, int classes) {
    std::vector<float> p(static_cast<size_t>(classes));
    double sum = 0.0;
    for (float& each : p) sum += each = static_cast<float>(std::exp(random.uniform(-3.0, 3.0)));
    for (float& each : p) each = static_cast<float>(each / sum);
    return p;
}

struct Written {
    std::vector<Coords> coords;
    Bytes flips;
    std::vector<float> p;
};

Written write_labels(const std::string& path, LabelType type, uint64_t fingerprint = 42) {
    Written all;
    PackedLabelWriter writer(path, {type, 0, kCrops, kClasses, fingerprint, 7});
    const NamedDataset dataset("here", kPictures, kClasses, fingerprint);
    PictureLabels labels;
    engine::Random random(3);
    for (int picture = 0; picture < kPictures; ++picture) {
        Written one;
        for (int m = 0; m < kCrops; ++m) {
            one.coords.push_back(label_coords(random_crop(random, 150, 200, {}), 150, 200));
            one.flips.push_back(static_cast<uint8_t>(random.below(2)));
            const auto p = random_distribution(random, kClasses);
            one.p.insert(one.p.end(), p.begin(), p.end());
        }
        pack_labels(type, one.coords, one.flips, one.p, labels);
        writer.append(picture, label_name(dataset, picture), labels);
        all.coords.insert(all.coords.end(), one.coords.begin(), one.coords.end());
        all.flips.insert(all.flips.end(), one.flips.begin(), one.flips.end());
        all.p.insert(all.p.end(), one.p.begin(), one.p.end());
    }
    CHECK_FALSE(std::filesystem::exists(path));  // not before it is finished
    writer.finish();
    return all;
}

const LabelType kTypes[] = {LabelType::ori,
                            LabelType::hard,
                            LabelType::smoothing,
                            LabelType::marginal_smoothing_k5,
                            LabelType::marginal_smoothing_k10,
                            LabelType::marginal_renorm};

}  // namespace

TEST_CASE("packed labels recover the golden distributions", "[data][golden]") {
    const json golden = read_golden(golden_file("ops.json"))["soft_labels"];
    int seen = 0;
    for (const LabelType type : kTypes) {
        const std::string name = label_type_name(type);
        if (!golden.contains(name)) continue;
        const json& packed = golden[name]["packed"];
        const auto full = golden[name]["full"].get<std::vector<std::vector<double>>>();
        REQUIRE(!full.empty());
        for (size_t i = 0; i < full.size(); ++i) {
            std::vector<int32_t> index;
            std::vector<double> value;
            if (packed[i].is_number()) {
                index = {packed[i].get<int32_t>()};
            } else if (packed[i][0].is_number()) {
                index = {packed[i][0].get<int32_t>()};
                value = {packed[i][1].get<double>()};
            } else {
                for (const json& each : packed[i][0]) index.push_back(each.get<int32_t>());
                value = packed[i][1].get<std::vector<double>>();
            }
            std::vector<double> p(full[i].size());
            recover_label<double>(type, index, value, p);
            double worst = 0.0;
            for (size_t c = 0; c < p.size(); ++c) {
                if (!(std::abs(p[c] - full[i][c]) <= worst)) worst = std::abs(p[c] - full[i][c]);
            }
            INFO(name);
            CHECK(worst <= 1e-10);
            ++seen;
        }
    }
    CHECK(seen >= 15);
}

TEST_CASE("packing keeps the largest classes, the lower of equals first", "[data]") {
    const std::vector<double> p{0.1, 0.05, 0.3, 0.1, 0.05, 0.3, 0.1, 0.0};
    std::vector<int32_t> index(5);
    std::vector<double> value(5);
    pack_label<double>(LabelType::marginal_smoothing_k5, p, index, value);
    CHECK(index == std::vector<int32_t>{2, 5, 0, 3, 6});
    CHECK(value == std::vector<double>{0.3, 0.3, 0.1, 0.1, 0.1});
    std::vector<int32_t> first(1);
    pack_label<double>(LabelType::hard, p, first, std::span<double>());
    CHECK(first[0] == 2);
    std::vector<double> broken = p;
    broken[3] = std::nan("");
    CHECK_THROWS_AS(pack_label<double>(LabelType::marginal_smoothing_k5, broken, index, value),
                    engine::Error);
}

TEST_CASE("a label that keeps all classes recovers them", "[data]") {
    engine::Random random(1);
    const auto p = random_distribution(random, 10);
    std::vector<int32_t> index(10);
    std::vector<float> value(10), q(10);
    pack_label<float>(LabelType::marginal_smoothing_k10, p, index, value);
    recover_label<float>(LabelType::marginal_smoothing_k10, index, value, q);
    CHECK(p == q);
}

TEST_CASE("label types are named, and refused where the classes are too few", "[data][bad-input]") {
    for (const LabelType type : kTypes) CHECK(parse_label_type(label_type_name(type)) == type);
    CHECK(parse_label_type("marginal_renorm_k5") == LabelType::marginal_renorm);
    CHECK(refuses("marginal_k3", [] { parse_label_type("marginal_k3"); }));
    CHECK_NOTHROW(require_label_fits(LabelType::marginal_smoothing_k10, 10));
    CHECK(refuses("use one of ori, hard, smoothing, marginal_smoothing_k5, marginal_renorm",
                  [] { require_label_fits(LabelType::marginal_smoothing_k10, 9); }));
    CHECK(refuses("use one of ori, hard, smoothing",
                  [] { require_label_fits(LabelType::marginal_renorm, 2); }));
}

TEST_CASE("a label file gives back what was written, for every type", "[data]") {
    const Scratch scratch;
    for (const LabelType type : kTypes) {
        const std::string path = scratch / (std::string(label_type_name(type)) + ".labels");
        const Written written = write_labels(path, type);
        PackedLabels labels = PackedLabels::open(path);
        const auto match = [&](int64_t pictures, int classes, uint64_t fingerprint) {
            labels.match(NamedDataset("here", pictures, classes, fingerprint));
        };
        CHECK(labels.header().type == type);
        CHECK(labels.header().pictures == kPictures);
        CHECK(labels.header().crops == kCrops);
        CHECK(labels.header().classes == kClasses);
        CHECK(labels.header().seed == 7);
        CHECK(refuses(path, [&] { match(kPictures, kClasses, 43); }));
        CHECK(refuses(path, [&] { match(kPictures - 1, kClasses, 42); }));
        CHECK(refuses(path, [&] { match(kPictures, kClasses + 1, 42); }));
        CHECK_NOTHROW(match(kPictures, kClasses, 42));
        PictureLabels read;
        for (size_t i = 0; i < size_t{kPictures} * kCrops; ++i) {
            const auto picture = static_cast<int64_t>(i) / kCrops;
            labels.read(picture, read);
            const LabelledCrop crop = labels.crop(picture, read, static_cast<int>(i) % kCrops);
            CHECK(crop.flip == (written.flips[i] != 0));
            for (size_t k = 0; k < 4; ++k) CHECK(crop.coords[k] == static_cast<float>(written.coords[i][k]));
            std::vector<int32_t> index(static_cast<size_t>(label_indices(type)));
            std::vector<float> value(static_cast<size_t>(label_values(type, kClasses)));
            pack_label<float>(type, std::span(written.p).subspan(i * kClasses, kClasses), index, value);
            CHECK(std::equal(index.begin(), index.end(), crop.index.begin(), crop.index.end()));
            CHECK(std::equal(value.begin(), value.end(), crop.value.begin(), crop.value.end()));
        }
    }
}

TEST_CASE("an unfinished label file leaves nothing behind", "[data]") {
    const Scratch scratch;
    {
        PackedLabelWriter writer(scratch / "labels", {LabelType::hard, 2, 1, kClasses, 0, 0});
        CHECK_THROWS_AS(writer.finish(), engine::Error);
    }
    CHECK(std::filesystem::is_empty(scratch.path()));
}

TEST_CASE("a damaged label file is refused by name", "[data][bad-input]") {
    const Scratch scratch;
    const std::string path = scratch / "some.labels";
    write_labels(path, LabelType::marginal_smoothing_k5);
    const Bytes whole = read_file(path, "");
    const auto refused = [&](const Bytes& bytes, const std::string& text) {
        write_bytes(path, bytes);
        return refuses("some.labels", [&] { PackedLabels::open(path); }) &&
               refuses(text, [&] { PackedLabels::open(path); });
    };
    for (size_t size = 0; size < whole.size(); size += size < 80 || size + 8 > whole.size() ? 1 : 7) {
        INFO(size << " of " << whole.size());
        CHECK(refused(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)),
                      "vvtq softlabel"));
    }
    Bytes longer = whole;
    longer.push_back(0);
    CHECK(refused(longer, "bytes"));
    for (size_t i = 0; i < 128; ++i) {
        Bytes damaged = whole;
        damaged[i] ^= 0x10;
        INFO("header byte " << i);
        CHECK(refused(damaged, "label file"));
    }
    // Picture 4, crop 1: coordinates, then a class and a probability. The checksum is made to fit.
    constexpr size_t kRecord = (4 + kCrops * (16 + 20 + 20 + 1) + 3) / 4 * 4 + 4;
    const size_t record = 128 + 4 * kRecord + 4;
    const auto with = [&](size_t at, auto value) {
        Bytes changed = whole;
        std::memcpy(&changed[at], &value, sizeof value);
        const PackedLayout layout({LabelType::marginal_smoothing_k5, 0, kCrops, kClasses});
        const uint32_t check = record_check(4, std::span(changed).subspan(record - 4, kRecord), layout);
        std::memcpy(&changed[record - 4 + layout.check_at], &check, sizeof check);
        return changed;
    };
    for (const float bad : {-0.01F, 1.01F, 5.0F, std::nanf(""), INFINITY}) {
        for (size_t k = 0; k < 4; ++k) {
            INFO("coordinate " << k << " " << bad);
            CHECK(refused(with(record + 16 + 4 * k, bad), "picture 4: crop 1 lies outside of [0, 1]"));
        }
        CHECK(refused(with(record + kCrops * 36 + 20 + 8, bad), "picture 4: crop 1 has a probability"));
    }
    CHECK(refused(with(record + 16 + 8, 0.0F), "picture 4: crop 1 lies outside"));
    for (const int32_t bad : {-1, int32_t{kClasses}, INT32_MAX, INT32_MIN}) {
        CHECK(refused(with(record + kCrops * 16 + 20 + 4, bad), "picture 4: crop 1 names a class"));
    }
    int32_t first = 0;
    std::memcpy(&first, &whole[record + kCrops * 16 + 20], sizeof first);
    CHECK(refused(with(record + kCrops * 16 + 20 + 4, first), "picture 4: crop 1 names a class twice"));
    write_bytes(path, whole);
    CHECK_NOTHROW(PackedLabels::open(path));
    CHECK(refuses("absent", [&] { PackedLabels::open(scratch / "absent"); }));
}
