// Label sets that were damaged, cut, changed while they are read, or are being written by two.
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "data/fkd_labels.h"
#include "data/label_repack.h"
#include "data/label_sink.h"
#include "data/packed_labels.h"
#include "engine/random.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;

namespace fs = std::filesystem;

namespace {

constexpr int kPictures = 7, kCrops = 3, kClasses = 12;
constexpr LabelType kType = LabelType::marginal_smoothing_k5;
const Stop kNever = [] { return false; };
const SoftLabelHeader kHeader{kType, 0, kCrops, kClasses, 42, 7, 77};
const NamedDataset kDataset("set/train", kPictures, kClasses, 42);

void draw_labels(int64_t picture, PictureLabels& labels) {
    engine::Random random(static_cast<uint64_t>(picture) + 5);
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
    pack_labels(kType, coords, flips, p, labels);
}

void fill(LabelSink& sink, int64_t begin, int64_t end) {
    PictureLabels labels;
    for (int64_t i = begin; i < end; ++i) {
        draw_labels(i, labels);
        sink.append(i, labels);
    }
}

Bytes write_packed(const std::string& path) {
    const auto sink = make_packed_sink(path, kHeader, kDataset);
    fill(*sink, sink->resume().next, kPictures);
    sink->finish();
    return read_file(path, "");
}

bool holds_what_was_written(const SoftLabels& set) {
    PictureLabels labels, expected;
    const auto same = [](const auto& x, const auto& y) {
        return std::equal(x.begin(), x.end(), y.begin(), y.end());
    };
    for (int64_t i = 0; i < kPictures; ++i) {
        set.read(i, labels);
        draw_labels(i, expected);
        for (int m = 0; m < kCrops; ++m) set.crop(i, labels, m);
        if (!same(labels.coords, expected.coords) || !same(labels.flips, expected.flips) ||
            !same(labels.index, expected.index) || !same(labels.value, expected.value)) {
            return false;
        }
    }
    return true;
}

/// What the error says that `action` throws; empty where it throws none.
template <typename Action>
std::string said(Action action) {
    try {
        action();
    } catch (const engine::Error& error) {
        return error.what();
    }
    return "";
}

std::string said_of(const std::string& path, const Bytes& bytes) {
    write_bytes(path, bytes);
    return said([&] { open_soft_labels(path, kDataset, kType, false); });
}

/// Opens like any user would, reads everything: right values, or an error of one line with path and remedy.
void check_right_or_refused(const std::string& path, const Bytes& bytes) {
    write_bytes(path, bytes);
    bool right = true;
    const std::string text =
        said([&] { right = holds_what_was_written(*open_soft_labels(path, kDataset, kType, false)); });
    const bool named = text.empty() || (text.find(path) != std::string::npos &&
                                        text.find("vvtq softlabel") != std::string::npos &&
                                        text.find('\n') == std::string::npos);
    if (!right || !named) {
        INFO(text);
        CHECK(right);
        CHECK(named);
    }
}

/// A file of version 2, as it was written before there were checksums.
Bytes without_checksums(const Bytes& whole) {
    const PackedLayout layout(kHeader), old(kHeader, kUncheckedVersion);
    PackedHeader raw;
    std::memcpy(&raw, whole.data(), sizeof raw);
    raw.version = kUncheckedVersion;
    raw.names_check = 0;
    raw.check = header_check(raw);
    const auto* begin = reinterpret_cast<const uint8_t*>(&raw);
    Bytes bytes(begin, begin + sizeof raw);
    for (size_t i = 0; i < kPictures; ++i) {
        const auto record = whole.begin() + static_cast<std::ptrdiff_t>(sizeof raw + i * layout.size);
        bytes.insert(bytes.end(), record, record + static_cast<std::ptrdiff_t>(old.size));
    }
    bytes.insert(bytes.end(),
                 whole.begin() + static_cast<std::ptrdiff_t>(sizeof raw + kPictures * layout.size),
                 whole.end());
    return bytes;
}

}  // namespace

TEST_CASE("every flipped bit of a packed label file is noticed and its place is named",
          "[data][fkd][bad-input]") {
    const Scratch scratch;
    const std::string path = scratch / "some.labels";
    const Bytes whole = write_packed(path);
    const size_t record = PackedLayout(kHeader).size, names = sizeof(PackedHeader) + kPictures * record;
    engine::Random random(1);
    const auto flipped = [&](size_t begin, size_t end) {
        const size_t bit = begin * 8 + random.below((end - begin) * 8);
        Bytes damaged = whole;
        damaged[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
        return std::pair(bit / 8, damaged);
    };
    for (int i = 0; i < 240; ++i) {
        const auto [at, damaged] = flipped(sizeof(PackedHeader), names);
        const size_t number = (at - sizeof(PackedHeader)) / record;
        const std::string text = said_of(path, damaged);
        const std::string name = "record " + std::to_string(number) + " ('" +
                                 label_name(kDataset, static_cast<int64_t>(number)) + "') is damaged";
        INFO(at << ": " << text);
        CHECK(text.find(path) != std::string::npos);
        CHECK(text.find(name) != std::string::npos);
        CHECK(text.find("make the labels with") != std::string::npos);
    }
    for (int i = 0; i < 60; ++i) {
        CHECK(said_of(path, flipped(0, sizeof(PackedHeader)).second).find(path) != std::string::npos);
        const std::string text = said_of(path, flipped(names, whole.size()).second);
        INFO(text);
        CHECK(text.find("some.labels' has a damaged table of names") != std::string::npos);
    }
    // A record in another's place, and one that a power cut has emptied.
    Bytes moved = whole, emptied = whole;
    std::copy_n(whole.begin() + 128 + static_cast<std::ptrdiff_t>(2 * record), record,
                moved.begin() + 128 + static_cast<std::ptrdiff_t>(5 * record));
    std::fill_n(emptied.begin() + 128 + static_cast<std::ptrdiff_t>(3 * record), record, uint8_t{0});
    CHECK(said_of(path, moved).find("record 5 ") != std::string::npos);
    CHECK(said_of(path, emptied).find("record 3 ") != std::string::npos);
}

TEST_CASE("a packed label file cut anywhere or changed at random gives right values or is refused",
          "[data][fkd][bad-input]") {
    const Scratch scratch;
    const std::string path = scratch / "some.labels";
    const Bytes whole = write_packed(path);
    for (size_t size = 0; size < whole.size(); ++size) {
        const std::string text =
            said_of(path, Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)));
        if (text.find(path) == std::string::npos || text.find("vvtq softlabel") == std::string::npos) {
            INFO(size << " of " << whole.size() << ": " << text);
            CHECK(false);
        }
    }
    engine::Random random(2);
    for (int i = 0; i < 10000; ++i) {
        Bytes damaged = whole;
        damaged[random.below(damaged.size())] = static_cast<uint8_t>(random.bits());
        check_right_or_refused(path, damaged);
    }
    CHECK(said_of(path, whole).empty());
}

TEST_CASE("a packed label file that is cut while it is read is an error that names the record",
          "[data][fkd]") {
    const Scratch scratch;
    const std::string path = scratch / "some.labels";
    write_packed(path);
    const auto set = open_soft_labels(path, kDataset, kType, false);
    PictureLabels labels;
    CHECK_NOTHROW(set->read(5, labels));
    fs::resize_file(path, sizeof(PackedHeader) + 5 * PackedLayout(kHeader).size + 1);
    CHECK_NOTHROW(set->read(4, labels));
    try {
        set->read(5, labels);
        FAIL("read what is not there");
    } catch (const engine::Error& error) {
        const std::string text = error.what();
        INFO(text);
        CHECK(error.fault() == engine::Fault::run);
        CHECK(text.find(path + "': picture 5, record 5: ") != std::string::npos);
        CHECK(text.find("has become shorter") != std::string::npos);
    }
}

TEST_CASE("packed label files of version 2 are read, with a warning", "[data][fkd]") {
    const Scratch scratch;
    const std::string path = scratch / "some.labels", old = scratch / "old.labels";
    const Bytes whole = write_packed(path);
    write_bytes(old, without_checksums(whole));
    const auto set = open_soft_labels(old, kDataset, kType, true);
    CHECK(holds_what_was_written(*set));
    CHECK(set->note().find("version 2, without checksums") != std::string::npos);
    CHECK(open_soft_labels(path, kDataset, kType, true)->note().empty());
    // What the warning says to do.
    CHECK(unpack_tree(old, scratch / "tree", kNever).note == set->note());
    pack_tree(scratch / "tree", scratch / "new.labels", kType, 0, &kDataset, kNever);
    const auto made = open_soft_labels(scratch / "new.labels", kDataset, kType, true);
    CHECK(made->note().empty());
    CHECK(holds_what_was_written(*made));
}

TEST_CASE("labelling goes on before the first damaged record", "[data][fkd]") {
    const Scratch scratch;
    const std::string path = scratch / "some.labels", partial = path + ".partial";
    const Bytes whole = write_packed(scratch / "whole");
    const size_t record = PackedLayout(kHeader).size;
    for (const int damage : {0, 1, 2}) {
        INFO("damage " << damage);
        fs::remove(partial);
        {
            const auto sink = make_packed_sink(path, kHeader, kDataset);
            fill(*sink, sink->resume().next, 6);
        }
        Bytes bytes = read_file(partial, "");
        REQUIRE(bytes.size() == 128 + 6 * record);
        const auto third = bytes.begin() + static_cast<std::ptrdiff_t>(128 + 3 * record);
        if (damage == 0) std::fill_n(third, record, uint8_t{0});
        if (damage == 1) third[40] ^= 4;
        if (damage == 2) std::copy_n(third - static_cast<std::ptrdiff_t>(record), record, third);
        write_bytes(partial, bytes);
        const auto sink = make_packed_sink(path, kHeader, kDataset);
        const Resumed resumed = sink->resume();
        CHECK(resumed.next == 3);
        CHECK(resumed.note.find(partial + "': record 3 of 6") != std::string::npos);
        fill(*sink, resumed.next, kPictures);
        sink->finish();
        CHECK(read_file(path, "") == whole);
    }
}

TEST_CASE("label files of a tree that are empty or damaged are made again", "[data][fkd]") {
    const Scratch scratch;
    const std::string tree = scratch / "tree";
    const auto write = [&](int64_t end) {
        const auto sink = make_tree_sink(tree, kHeader, kDataset);
        const Resumed resumed = sink->resume();
        fill(*sink, resumed.next, end);
        if (end == kPictures) sink->finish();
        return resumed;
    };
    write(6);
    const std::string file = tree + "/" + label_name(kDataset, 3) + ".tar";
    const Bytes whole = read_file(file, "");
    PictureLabels fewer;
    draw_labels(3, fewer);
    fewer.coords = fewer.coords.first(4);
    fewer.flips = fewer.flips.first(1);
    fewer.index = fewer.index.first(5);
    fewer.value = fewer.value.first(5);
    Bytes half(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(whole.size() / 2));
    for (const Bytes& damaged :
         {Bytes(), half, Bytes(whole.size()), write_fkd(kType, kClasses, fewer, "3")}) {
        write_bytes(file, damaged);
        const Resumed resumed = write(6);
        CHECK(resumed.next == 3);
        CHECK(resumed.note.find(file) != std::string::npos);
        CHECK(read_file(file, "") == whole);
    }
    const Resumed last = write(kPictures);
    CHECK(last.next == 6);
    CHECK(last.note.empty());
    CHECK(holds_what_was_written(*open_soft_labels(tree, kDataset, kType, false)));
}

TEST_CASE("flipped bits in a label file of a tree change nothing or are named", "[data][fkd][bad-input]") {
    const Scratch scratch;
    const auto sink = make_tree_sink(scratch / "tree", kHeader, kDataset);
    fill(*sink, 0, kPictures);
    sink->finish();
    const std::string file = scratch / ("tree/" + label_name(kDataset, 4) + ".tar");
    const Bytes whole = read_file(file, "");
    const auto set = open_soft_labels(scratch / "tree", kDataset, kType, false);
    engine::Random random(3);
    int noticed = 0;
    for (int i = 0; i < 240; ++i) {
        const size_t bit = random.below(whole.size() * 8);
        Bytes damaged = whole;
        damaged[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
        write_bytes(file, damaged);
        bool right = false;
        const std::string text = said([&] { right = holds_what_was_written(*set); });
        INFO("bit " << bit << ": " << text);
        CHECK((right || text.find(file) != std::string::npos));
        noticed += right ? 0 : 1;
    }
    CHECK(noticed > 120);  // the rest lies in dates and the like
}

TEST_CASE("a label set is written by one process at a time", "[data][fkd][bad-input]") {
    const Scratch scratch;
    const std::string path = scratch / "labels", tree = scratch / "tree";
    {
        const auto first = make_packed_sink(path, kHeader, kDataset);
        first->resume();
        fill(*first, 0, 2);
        const Bytes partial = read_file(path + ".partial", "");
        for (const char* name : {"/labels", "/./labels"}) {
            CHECK(refuses("is being written by another process",
                          [&] { make_packed_sink(scratch.path() + name, kHeader, kDataset); }));
        }
        CHECK(read_file(path + ".partial", "") == partial);
        fill(*first, 2, kPictures);
        first->finish();
    }
    CHECK_FALSE(fs::exists(path + ".partial"));
    const auto packed = open_soft_labels(path, kDataset, kType, false);
    CHECK(holds_what_was_written(*packed));
    {
        const auto first = make_tree_sink(tree, kHeader, kDataset);
        const auto refused = [&](auto action) {
            return refuses("tree' is being written by another process", action);
        };
        CHECK(refused([&] { make_tree_sink(tree, kHeader, kDataset); }));
        CHECK(refused([&] { unpack_tree(path, tree, kNever); }));
        fill(*first, 0, kPictures);
        first->finish();
    }
    // Pictures of another origin do not come into a tree, and the same ones may come again.
    CHECK(refuses(tree, [&] { unpack_tree(path, tree, kNever); }));
    CHECK_NOTHROW(unpack_tree(path, scratch / "unpacked", kNever));
    CHECK_NOTHROW(unpack_tree(path, scratch / "unpacked", kNever));
    // Packing does not write over what a stopped labelling left.
    {
        const auto stopped = make_packed_sink(scratch / "pack", kHeader, kDataset);
        stopped->resume();
        fill(*stopped, 0, 4);
    }
    CHECK(refuses("pack.partial' holds labels of a run that was stopped",
                  [&] { pack_tree(tree, scratch / "pack", kType, 0, &kDataset, kNever); }));
    const auto again = make_packed_sink(scratch / "pack", kHeader, kDataset);
    CHECK(again->resume().next == 4);
}

TEST_CASE("packing and unpacking stop where they are told", "[data][fkd]") {
    const Scratch scratch;
    const std::string path = scratch / "labels";
    write_packed(path);
    int asked = 0;
    const Stop at_fourth = [&] { return ++asked == 4; };
    const Repacked unpacked = unpack_tree(path, scratch / "tree", at_fourth);
    CHECK(unpacked.pictures == 3);
    CHECK(unpacked.of == kPictures);
    CHECK(list_fkd(scratch / "tree").size() == 3);
    CHECK(unpack_tree(path, scratch / "tree", kNever).pictures == kPictures);
    asked = 0;
    const Repacked packed =
        pack_tree(scratch / "tree", scratch / "pack", kType, kClasses, nullptr, at_fourth);
    CHECK(packed.pictures == 3);
    CHECK(packed.of == kPictures);
    CHECK_FALSE(fs::exists(scratch / "pack"));
    CHECK_FALSE(fs::exists(scratch / "pack.partial"));
}

TEST_CASE("labels that training would refuse are not packed", "[data][fkd][bad-input]") {
    const Scratch scratch;
    const auto sink = make_tree_sink(scratch / "tree", kHeader, kDataset);
    fill(*sink, 0, kPictures);
    const std::string file = scratch / ("tree/" + label_name(kDataset, 4) + ".tar");
    PictureLabels labels;
    const auto refused = [&](const std::string& reason, auto change) {
        draw_labels(4, labels);
        change();
        write_bytes(file, write_fkd(kType, kClasses, labels, "4"));
        const auto pack = [&](int classes, const Dataset* dataset) {
            return refuses(file + "': crop 1 " + reason, [&] {
                pack_tree(scratch / "tree", scratch / "pack", kType, classes, dataset, kNever);
            });
        };
        return pack(kClasses, nullptr) && pack(0, &kDataset);
    };
    for (const float bad : {NAN, INFINITY, -0.5F, 1.5F}) {
        INFO(bad);
        CHECK(refused("lies outside", [&] { labels.own_coords[6] = bad; }));
        CHECK(refused("has a probability", [&] { labels.own_value[6] = bad; }));
    }
    CHECK(refused("has probabilities that do not add up", [&] {
        for (size_t i = 5; i < 10; ++i) labels.own_value[i] = 0.3F;
    }));
    CHECK(refused("names a class that does not exist", [&] { labels.own_index[6] = kClasses; }));
    CHECK(refused("names a class twice", [&] { labels.own_index[6] = labels.own_index[5]; }));
    CHECK_FALSE(fs::exists(scratch / "pack"));
}

TEST_CASE("a packed file whose names are no names of files is not unpacked", "[data][fkd][bad-input]") {
    const Scratch scratch;
    PictureLabels labels;
    draw_labels(0, labels);
    for (const std::string name : {"", ".", "..", "/", "/tmp/out", "../out", "a/../../out", "a/..", "a/./b",
                                   "a//b", "./a", "a/", "a\n/../../b"}) {
        INFO(name);
        {
            PackedLabelWriter writer(scratch / "pack", kHeader);
            writer.append(0, "before", labels);
            writer.append(1, name, labels);
            writer.finish();
        }
        CHECK(refuses("pack' names a picture",
                      [&] { unpack_tree(scratch / "pack", scratch / "tree", kNever); }));
        CHECK_FALSE(fs::exists(scratch / "tree"));  // nothing was written, not even the good one
    }
    // A name that stands there twice, in a file of the version without checksums.
    write_packed(scratch / "pack");
    Bytes twice = without_checksums(read_file(scratch / "pack", ""));
    twice.back() = static_cast<uint8_t>(twice.back() - 1);  // ".../class6/6" becomes ".../class6/5"
    const std::string last = label_name(kDataset, kPictures - 1);
    twice[twice.size() - 3] = static_cast<uint8_t>(twice[twice.size() - 3] - 1);
    REQUIRE(last.ends_with("class6/6"));
    write_bytes(scratch / "pack", twice);
    CHECK(refuses("table of names", [&] { unpack_tree(scratch / "pack", scratch / "tree", kNever); }));
    CHECK_FALSE(fs::exists(scratch / "tree"));
}

TEST_CASE("labels are written over regular files alone", "[data][fkd][bad-input]") {
    const Scratch scratch;
    fs::create_directories(scratch / "folder");
    REQUIRE(::mkfifo((scratch / "pipe").c_str(), 0600) == 0);
    REQUIRE(::mkfifo((scratch / "x.partial").c_str(), 0600) == 0);
    fs::create_symlink("/dev/full", scratch / "link");
    fs::create_symlink("nowhere", scratch / "dangling");
    for (const std::string& path : {std::string("/dev/full"), scratch / "folder", scratch / "pipe",
                                    scratch / "x", scratch / "link", scratch / "dangling"}) {
        INFO(path);
        CHECK(refuses("cannot write '" + path, [&] { make_packed_sink(path, kHeader, kDataset); }));
    }
    CHECK(fs::is_character_file("/dev/full"));
    CHECK_FALSE(fs::exists("/dev/full.partial"));
    CHECK(fs::is_fifo(scratch / "pipe"));
    CHECK(fs::is_fifo(scratch / "x.partial"));
    for (const char* name : {"pipe", "x.partial"}) {
        CHECK(refuses(name, [&] { make_tree_sink(scratch / name, kHeader, kDataset); }));
        CHECK(refuses(name, [&] { PackedLabels::open(scratch / name); }));
    }
    // Where a link leads to a file, the file is replaced and the link stays.
    write_bytes(scratch / "there/labels", {1, 2, 3});
    fs::create_symlink(scratch / "there/labels", scratch / "good");
    const Bytes whole = write_packed(scratch / "good");
    CHECK(fs::is_symlink(scratch / "good"));
    CHECK(read_file(scratch / "there/labels", "") == whole);
}
