// Label sets while they are written: what a stopped run left, two writers, and what may be written over.
#include <sys/stat.h>

#include "data/fkd_labels.h"
#include "tests/unit/data_labels_support.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace fs = std::filesystem;

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
            fill(*sink, sink->resume(kNever).next, 6);
        }
        Bytes bytes = read_file(partial, "");
        REQUIRE(bytes.size() == 128 + 6 * record);
        const auto third = bytes.begin() + static_cast<std::ptrdiff_t>(128 + 3 * record);
        if (damage == 0) std::fill_n(third, record, uint8_t{0});
        if (damage == 1) third[40] ^= 4;
        if (damage == 2) std::copy_n(third - static_cast<std::ptrdiff_t>(record), record, third);
        write_bytes(partial, bytes);
        CHECK(make_packed_sink(path, kHeader, kDataset)->resume([] { return true; }).stopped);
        CHECK(read_file(partial, "") == bytes);  // nothing was cut off
        const auto sink = make_packed_sink(path, kHeader, kDataset);
        const Resumed resumed = sink->resume(kNever);
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
        const Resumed resumed = sink->resume(kNever);
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

TEST_CASE("a label set is written by one process at a time", "[data][fkd][bad-input]") {
    const Scratch scratch;
    const std::string path = scratch / "labels", tree = scratch / "tree";
    {
        const auto first = make_packed_sink(path, kHeader, kDataset);
        first->resume(kNever);
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
        stopped->resume(kNever);
        fill(*stopped, 0, 4);
    }
    CHECK(refuses("pack.partial' holds labels of a run that was stopped",
                  [&] { pack_tree(tree, scratch / "pack", kType, 0, &kDataset, kNever); }));
    const auto again = make_packed_sink(scratch / "pack", kHeader, kDataset);
    CHECK(again->resume(kNever).next == 4);
}

TEST_CASE("packing and unpacking stop where they are told", "[data][fkd]") {
    const Scratch scratch;
    const std::string path = scratch / "labels";
    write_packed(path);
    int asked = 0;
    const Stop at_fourth = [&] { return ++asked == 5; };  // once before all
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

TEST_CASE("labels are written over labels and empty files alone", "[data][fkd][bad-input]") {
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
    const std::string other = scratch / "teacher.safetensors";
    write_bytes(other, {1, 2, 3});
    CHECK(refuses("holds no labels", [&] { make_packed_sink(other, kHeader, kDataset); }));
    CHECK(read_file(other, "") == Bytes{1, 2, 3});
    // Where a link leads to a file, the file is replaced and the link stays.
    write_bytes(scratch / "there/labels", {});
    fs::create_symlink(scratch / "there/labels", scratch / "good");
    const Bytes whole = write_packed(scratch / "good");
    CHECK(fs::is_symlink(scratch / "good"));
    CHECK(read_file(scratch / "there/labels", "") == whole);
    CHECK(write_packed(scratch / "good") == whole);  // once more, over labels
}
