// Label sets: trees of published files, packed files, the way between them, and labels that are missing.
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstring>

#include "data/fkd_labels.h"
#include "data/label_repack.h"
#include "data/label_sink.h"
#include "data/packed_format.h"
#include "data/packed_labels.h"
#include "engine/random.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;

namespace {

const Stop kNever = [] { return false; };
constexpr int kPictures = 12, kCrops = 4, kClasses = 20;
constexpr LabelType kTypes[] = {LabelType::ori,
                                LabelType::hard,
                                LabelType::smoothing,
                                LabelType::marginal_smoothing_k5,
                                LabelType::marginal_smoothing_k10,
                                LabelType::marginal_renorm};

// Labels of one picture, in `labels.own_...`.
void draw_labels(LabelType type, int64_t picture, PictureLabels& labels) {
    engine::Random random(static_cast<uint64_t>(picture) + 100);
    std::vector<Coords> coords;
    Bytes flips;
    std::vector<float> p;
    for (int m = 0; m < kCrops; ++m) {
        coords.push_back(label_coords(random_crop(random, 150, 200, {}), 150, 200));
        flips.push_back(static_cast<uint8_t>(random.below(2)));
        double sum = 0;
        for (int c = 0; c < kClasses; ++c) sum += p.emplace_back(static_cast<float>(0.1 + random.uniform()));
        for (size_t c = p.size() - kClasses; c < p.size(); ++c) p[c] = static_cast<float>(p[c] / sum);
    }
    pack_labels(type, coords, flips, p, labels);
}

bool equal(const PictureLabels& a, const PictureLabels& b) {
    const auto same = [](const auto& x, const auto& y) {
        return std::equal(x.begin(), x.end(), y.begin(), y.end());
    };
    return same(a.coords, b.coords) && same(a.flips, b.flips) && same(a.index, b.index) &&
           same(a.value, b.value);
}

SoftLabelHeader header_of(LabelType type, uint64_t fingerprint = 9) {
    return {type, 0, kCrops, kClasses, fingerprint, 1, 77};
}

NamedDataset dataset_called(const std::string& name, uint64_t fingerprint = 9) {
    return NamedDataset(name, kPictures, kClasses, fingerprint);
}

void fill(LabelSink& sink, LabelType type, int64_t begin, int64_t end) {
    PictureLabels labels;
    for (int64_t i = begin; i < end; ++i) {
        draw_labels(type, i, labels);
        sink.append(i, labels);
    }
}

void write_tree(const std::string& root, LabelType type, const Dataset& dataset) {
    const auto sink = make_tree_sink(root, header_of(type), dataset);
    fill(*sink, type, sink->resume(kNever).next, kPictures);
    sink->finish();
}

}  // namespace

TEST_CASE("a label name is the last four parts of the path up to the first dot", "[data][fkd]") {
    CHECK(label_name(dataset_called("/data/imagenet/train"), 3) == "imagenet/train/class3/3");
    CHECK(label_name(dataset_called("/data/imagenet/train/"), 3) == "imagenet/train/class3/3");
    CHECK(label_name(dataset_called("/data/imagenet"), 11) == "imagenet/train/class1/11");  // in memory
    CHECK(label_name(dataset_called("/data/my.v2/train"), 3) == "my.v2/train/class3/3");
    const std::string here = std::filesystem::current_path().filename().string();
    CHECK(label_name(dataset_called("train"), 3) == here + "/train/class3/3");
}

TEST_CASE("published label files open as a tree", "[data][fkd]") {
    const Scratch scratch;
    const auto dataset = NamedDataset(scratch / "set/train", 1, 50, 0);
    const std::string path = scratch / "labels/set/train/class0/0.tar";
    PictureLabels first, labels;
    for (const char* name :
         {"fkd_tensor.tar", "fkd_numpy.tar", "fkd_numpy_legacy.tar", "fkd_numpy_fp16.tar"}) {
        INFO(name);
        write_bytes(path, fixture(name));
        const auto set =
            open_soft_labels(scratch / "labels", dataset, LabelType::marginal_smoothing_k5, false);
        CHECK(set->header().crops == 20);
        set->read(0, labels);
        const LabelledCrop crop = set->crop(0, labels, 0);
        CHECK(std::vector<int32_t>(crop.index.begin(), crop.index.end()) ==
              std::vector<int32_t>{46, 20, 12, 17, 43});
        CHECK(crop.flip);
        const bool half = std::string(name) == "fkd_numpy_fp16.tar";
        CHECK(std::abs(crop.value[0] - 0.6F) <= (half ? 0.6F / 2048 : 0.0F));
        if (!half) CHECK(crop.coords[3] == 0.8251394033432007);
        if (std::string(name) == "fkd_tensor.tar") {
            first = labels;
            first.coords = first.own_coords;
            first.flips = first.own_flips;
            first.index = first.own_index;
            first.value = first.own_value;
        }
        CHECK(equal(labels, first) == !half);
    }
    // The tree may also begin below the data set's name.
    std::filesystem::rename(scratch / "labels/set/train", scratch / "labels/train");
    CHECK_NOTHROW(open_soft_labels(scratch / "labels", dataset, LabelType::marginal_smoothing_k5, false));
    for (const LabelType type :
         {LabelType::ori, LabelType::hard, LabelType::smoothing, LabelType::marginal_smoothing_k10}) {
        CHECK(refuses("class0/0.tar", [&] { open_soft_labels(scratch / "labels", dataset, type, true); }));
    }
    const auto few = NamedDataset(scratch / "set/train", 1, 44, 0);  // the label names class 46
    CHECK(refuses("class0/0.tar", [&] {
        open_soft_labels(scratch / "labels", few, LabelType::marginal_smoothing_k5, false);
    }));
}

TEST_CASE("labels of every type go through a file, a tree, a pack and back", "[data][fkd]") {
    const Scratch scratch;
    const auto dataset = dataset_called(scratch / "set/train");
    PictureLabels expected, labels;
    for (const LabelType type : kTypes) {
        const std::string name = label_type_name(type);
        INFO(name);
        const std::string tree = scratch / ("tree_" + name), pack = scratch / ("pack_" + name);
        write_tree(tree, type, dataset);
        CHECK(pack_tree(tree, pack, type, kClasses, nullptr, kNever).pictures == kPictures);
        CHECK(unpack_tree(pack, scratch / ("again_" + name), kNever).pictures == kPictures);
        CHECK(pack_tree(tree, pack + "_matched", type, 0, &dataset, kNever).pictures == kPictures);
        for (const std::string& path : {tree, pack, scratch / ("again_" + name), pack + "_matched"}) {
            const auto set = open_soft_labels(path, dataset, type, true);
            for (int64_t i = 0; i < kPictures; ++i) {
                draw_labels(type, i, expected);
                set->read(i, labels);
                CHECK(equal(labels, expected));
                CHECK_NOTHROW(set->crop(i, labels, kCrops - 1));
            }
        }
        // Files of the same content, byte for byte.
        for (const std::string& file : list_fkd(tree)) {
            CHECK(read_file(tree + "/" + file + ".tar", "") ==
                  read_file(scratch / ("again_" + name + "/" + file + ".tar"), ""));
        }
    }
}

TEST_CASE("a missing, short or foreign label file is refused by its path", "[data][fkd][bad-input]") {
    const Scratch scratch;
    const LabelType type = LabelType::marginal_smoothing_k5;
    const auto dataset = dataset_called(scratch / "set/train");
    const std::string tree = scratch / "tree";
    write_tree(tree, type, dataset);
    const std::string file = tree + "/set/train/class7/7.tar";
    const Bytes whole = read_file(file, "");
    const auto set = open_soft_labels(tree, dataset, type, false);
    PictureLabels labels;
    CHECK_NOTHROW(set->read(7, labels));
    for (size_t size = 0; size < whole.size(); size += 37) {
        write_bytes(file, Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)));
        CHECK(refuses(file, [&] { set->read(7, labels); }));
        CHECK(refuses(file, [&] { pack_tree(tree, scratch / "pack", type, 0, nullptr, kNever); }));
    }
    CHECK_FALSE(std::filesystem::exists(scratch / "pack"));
    CHECK_FALSE(std::filesystem::exists(scratch / "pack.partial"));
    std::filesystem::remove(file);
    CHECK(refuses(file, [&] { set->read(7, labels); }));
    CHECK(refuses(file, [&] { pack_tree(tree, scratch / "pack", type, 0, &dataset, kNever); }));
    // One crop less than the first picture has.
    draw_labels(type, 7, labels);
    labels.coords = labels.coords.first((kCrops - 1) * 4);
    labels.flips = labels.flips.first(kCrops - 1);
    labels.index = labels.index.first((kCrops - 1) * 5);
    labels.value = labels.value.first((kCrops - 1) * 5);
    write_bytes(file, write_fkd(type, kClasses, labels, "7"));
    CHECK(refuses(file, [&] { set->read(7, labels); }));
    CHECK(refuses(file, [&] { pack_tree(tree, scratch / "pack", type, 0, nullptr, kNever); }));
    CHECK(refuses(scratch / "absent", [&] { open_soft_labels(scratch / "absent", dataset, type, false); }));
    std::filesystem::create_directories(scratch / "empty");
    CHECK(refuses("set/train/class0/0.tar",
                  [&] { open_soft_labels(scratch / "empty", dataset, type, false); }));
    CHECK(refuses(scratch / "empty",
                  [&] { pack_tree(scratch / "empty", scratch / "pack", type, 0, nullptr, kNever); }));
    // A picture that a pack made of a tree does not name.
    std::filesystem::remove(file);
    pack_tree(tree, scratch / "pack", type, kClasses, nullptr, kNever);
    const auto packed = open_soft_labels(scratch / "pack", dataset, type, false);
    CHECK_NOTHROW(packed->read(6, labels));
    CHECK(refuses("set/train/class7/7", [&] { packed->read(7, labels); }));
    const auto other = dataset_called(scratch / "other/train");
    CHECK(refuses("other/train/class0/0", [&] { open_soft_labels(scratch / "pack", other, type, false); }));
}

TEST_CASE("labelling goes on where it was stopped, and only with the same settings", "[data][fkd]") {
    const Scratch scratch;
    const LabelType type = LabelType::smoothing;
    const auto dataset = dataset_called(scratch / "set/train");
    const auto write = [&](const std::string& path, bool tree, const SoftLabelHeader& header, int64_t end) {
        const auto sink =
            tree ? make_tree_sink(path, header, dataset) : make_packed_sink(path, header, dataset);
        const int64_t next = sink->resume(kNever).next;
        fill(*sink, type, next, end);
        if (end == kPictures) sink->finish();
        return next;
    };
    const auto header = header_of(type);
    CHECK(write(scratch / "whole", false, header, kPictures) == 0);
    CHECK(write(scratch / "parts", false, header, 5) == 0);
    CHECK_FALSE(std::filesystem::exists(scratch / "parts"));
    SoftLabelHeader other = header;
    other.settings = 78;
    CHECK(refuses("parts.partial", [&] { write(scratch / "parts", false, other, kPictures); }));
    // A record that was cut off in the middle is made again.
    const auto size = std::filesystem::file_size(scratch / "parts.partial");
    std::filesystem::resize_file(scratch / "parts.partial", size - 3);
    CHECK(write(scratch / "parts", false, header, kPictures) == 4);
    CHECK(read_file(scratch / "parts", "") == read_file(scratch / "whole", ""));
    CHECK_FALSE(std::filesystem::exists(scratch / "parts.partial"));

    CHECK(write(scratch / "tree", true, header, 5) == 0);
    CHECK(refuses(scratch / "tree", [&] { write(scratch / "tree", true, other, kPictures); }));
    CHECK(write(scratch / "tree", true, header, kPictures) == 5);
    const auto set = open_soft_labels(scratch / "tree", dataset, type, false);
    PictureLabels labels, expected;
    for (int64_t i = 0; i < kPictures; ++i) {
        set->read(i, labels);
        draw_labels(type, i, expected);
        CHECK(equal(labels, expected));
    }
    write_bytes(scratch / "taken/file", {1});
    CHECK(refuses(scratch / "taken", [&] { write(scratch / "taken", true, header, kPictures); }));
}

TEST_CASE("a packed file cannot lead out of the tree it is unpacked into", "[data][fkd][bad-input]") {
    const Scratch scratch;
    PictureLabels labels;
    for (const char* name : {"../out", "a/../../out", "/tmp/out", "a/.."}) {
        INFO(name);
        PackedLabelWriter writer(scratch / "pack", header_of(LabelType::hard));
        draw_labels(LabelType::hard, 0, labels);
        writer.append(0, name, labels);
        writer.finish();
        CHECK(refuses("pack", [&] { unpack_tree(scratch / "pack", scratch / "tree", kNever); }));
        CHECK_FALSE(std::filesystem::exists(scratch / "out.tar"));
    }
}

TEST_CASE("labels of a million pictures open in no time and are not held in memory", "[data][fkd]") {
    // A sparse file: the header and the table of names are there, the 28 GB of records are holes.
    const Scratch scratch;
    const std::string path = scratch / "million";
    constexpr int64_t kMillion = 1000000;
    const SoftLabelHeader header{LabelType::marginal_smoothing_k5, kMillion, 500, 1000, 5, 1, 0};
    const PackedLayout layout(header);
    const std::string text(kMillion * 10, 'x');
    std::vector<uint64_t> ends;
    std::vector<uint32_t> order;
    for (uint32_t i = 0; i < kMillion; ++i) {
        ends.push_back(uint64_t{i + 1} * 10);
        order.push_back(i);
    }
    PackedHeader raw{};
    std::memcpy(raw.magic, kPackedMagic, sizeof kPackedMagic);
    raw.version = kPackedVersion;
    raw.type = static_cast<uint32_t>(header.type);
    raw.pictures = kMillion;
    raw.crops = 500;
    raw.classes = 1000;
    raw.fingerprint = 5;
    raw.text = text.size();
    const auto bytes_of = [](const auto& values) {
        return std::span(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(values[0]));
    };
    raw.names_check = checksum(bytes_of(text), checksum(bytes_of(order), checksum(bytes_of(ends))));
    raw.check = header_check(raw);
    Bytes last(layout.size);
    const uint32_t check = record_check(kMillion - 1, last, layout);
    std::memcpy(&last[layout.check_at], &check, sizeof check);
    {
        std::ofstream file(path, std::ios::binary);
        file.write(reinterpret_cast<const char*>(&raw), sizeof raw);
        file.seekp(static_cast<std::streamoff>(sizeof raw + layout.size * (kMillion - 1)));
        file.write(reinterpret_cast<const char*>(last.data()), static_cast<std::streamsize>(last.size()));
        file.write(reinterpret_cast<const char*>(ends.data()), static_cast<std::streamsize>(ends.size() * 8));
        file.write(reinterpret_cast<const char*>(order.data()),
                   static_cast<std::streamsize>(order.size() * 4));
        file.write(text.data(), static_cast<std::streamsize>(text.size()));
        REQUIRE(file.good());
    }
    const auto resident = [] {
        std::ifstream statm("/proc/self/statm");
        int64_t all = 0, pages = 0;
        statm >> all >> pages;
        return pages * ::getpagesize();
    };
    const NamedDataset dataset("set", kMillion, 1000, 5);
    const int64_t before = resident();
    const auto began = std::chrono::steady_clock::now();
    const auto set = open_soft_labels(path, dataset, header.type, true);
    PictureLabels labels;
    set->read(kMillion - 1, labels);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
    CHECK(set->header().pictures == kMillion);
    CHECK(labels.flips.size() == 500);
    CHECK(seconds.count() < 1.0);
    CHECK(resident() - before < 16 << 20);  // of 28 GB
}
