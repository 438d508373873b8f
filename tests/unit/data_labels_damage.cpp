// Label files that were damaged, cut, or changed while they are read.
#include <cstring>

#include "data/fkd_labels.h"
#include "tests/unit/data_labels_support.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace fs = std::filesystem;

namespace {

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

TEST_CASE("damage whose checksums fit is read within bounds or refused", "[data][fkd][bad-input]") {
    const Scratch scratch;
    const std::string path = scratch / "some.labels";
    const Bytes whole = write_packed(path);
    CHECK(mended(whole) == whole);
    engine::Random random(4);
    int read = 0;
    for (int i = 0; i < 5000; ++i) {
        Bytes damaged = whole;
        if (i % 10 == 0) damaged.resize(random.below(damaged.size()));
        if (damaged.empty()) continue;
        damaged[random.below(damaged.size())] = static_cast<uint8_t>(random.bits());
        write_bytes(path, mended(damaged));
        const std::string text = said([&] {
            PackedLabels set = PackedLabels::open(path);
            set.match(NamedDataset("set/train", kPictures, kClasses, set.header().fingerprint));
            set.validate();
            ++read;
        });
        if (!text.empty() && text.find(path) == std::string::npos) {
            INFO(text);
            CHECK(false);
        }
    }
    CHECK(read > 500);  // other values, but each within its range
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
