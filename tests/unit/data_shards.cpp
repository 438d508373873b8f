// Shards: packed and back, read as the folder is, damage and hostile indexes.
#include <cstring>
#include <filesystem>
#include <set>

#include "data/jpeg_encode.h"
#include "data/label_sink.h"
#include "data/loader.h"
#include "data/packed_labels.h"
#include "data/shard_pack.h"
#include "data/shards.h"
#include "data/tar_blocks.h"
#include "engine/random.h"
#include "engine/threads.h"
#include "tests/catch.h"
#include "tests/command_support.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;

namespace fs = std::filesystem;

namespace {

const PackProgress kNeverStops = [](const Packed&) { return false; };

Image noise(int height, int width, uint64_t key) {
    engine::Random random(key);
    Image image{height, width, Bytes(static_cast<size_t>(height) * static_cast<size_t>(width) * 3)};
    for (size_t i = 0; i < image.rgb.size(); ++i) {
        image.rgb[i] = static_cast<uint8_t>(i / 3 % static_cast<size_t>(width) + random.below(90));
    }
    return image;
}

/// Folders train/ and val/ of pictures of several sizes, types and names.
struct Tree {
    Scratch scratch;
    std::string dir = scratch / "tree", packed = scratch / "packed";

    Tree() {
        const std::string names[] = {"cat/1.jpg",
                                     "cat/a.b.c.JPEG",
                                     "cat/deep/er/2.jpg",
                                     "dog one/x y.jpg",
                                     "dog one/" + std::string(150, 'n') + ".jpg",
                                     "emu/\xFF\xFE.jpg"};
        uint64_t key = 0;
        for (const char* split : {"train", "val"}) {
            for (const std::string& name : names) {
                ++key;
                const int height = 70 + static_cast<int>(key) * 9, width = 150 - static_cast<int>(key) * 5;
                write_bytes(dir + "/" + split + "/" + name, encode_jpeg(noise(height, width, key), 80));
            }
            write_bytes(dir + "/" + split + "/emu/3.png", fixture("picture.png"));
        }
    }
    Packed pack(const PackOptions& options = {.shard_bytes = 40000}) const {
        return pack_folder(dir, packed, options, kNeverStops);
    }
};

std::set<std::string> files_below(const std::string& root) {
    std::set<std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
        if (!entry.is_directory()) files.insert(fs::relative(entry.path(), root).string());
    }
    return files;
}

std::vector<Batch> epoch_of(const Dataset& dataset, int workers) {
    LoaderOptions options;
    options.mode = LoaderMode::training;
    options.batch_size = 3;
    options.image_size = 24;
    options.workers = workers;
    options.seed = 5;
    Loader loader(dataset, options);
    std::vector<Batch> batches;
    loader.start(2);
    for (Batch batch; loader.next(batch); batch = {}) batches.push_back(batch);
    return batches;
}

void flip_bit(const std::string& path, uint64_t at) {
    Bytes bytes = bytes_of(path);
    bytes.at(at) ^= 4;
    write_bytes(path, bytes);
}

/// Where an index is changed to, whether it is refused by a message that names it.
bool refused(const ShardIndex& index) {
    return refuses("some.index", [&] { read_shard_index(write_shard_index(index), "some.index"); });
}

}  // namespace

TEST_CASE("shards: packed and unpacked, every file has its bytes") {
    const Tree tree;
    const Packed packed = tree.pack();
    CHECK(packed.pictures == 14);
    CHECK(packed.of == 14);
    CHECK(packed.reencoded == 0);
    CHECK(packed.shards > 4);  // several a split
    const std::string back = tree.scratch / "back";
    CHECK(unpack_folder(tree.packed, back, kNeverStops).pictures == 14);
    CHECK(files_below(back) == files_below(tree.dir));
    for (const std::string& file : files_below(tree.dir)) {
        INFO(file);
        CHECK(bytes_of(back + "/" + file) == bytes_of(tree.dir + "/" + file));
    }
    // A second one would mix two.
    CHECK(refuses(back, [&] { unpack_folder(tree.packed, back, kNeverStops); }));
    CHECK(refuses(tree.packed, [&] { tree.pack(); }));
    CHECK(refuses("shards already",
                  [&] { pack_folder(tree.packed, tree.scratch / "twice", {}, kNeverStops); }));
}

TEST_CASE("shards: other programs read the archives") {
    const Tree tree;
    tree.pack();
    const Shards shards(tree.packed + "/train");
    std::set<std::string> listed;
    for (uint32_t shard = 0; shard < shards.index().shard_bytes.size(); ++shard) {
        const std::string path = tree.packed + "/train/" + ShardIndex::shard_name(shard);
        const Ended tar = run_shell("tar -tf " + path + " && tar -xf " + path + " -C " + tree.scratch.path(),
                                    tree.scratch.path());
        REQUIRE(tar.status == 0);
        CHECK(tar.err.empty());
        std::istringstream lines(tar.out);
        for (std::string line; std::getline(lines, line);) listed.insert(line);
    }
    CHECK(listed.size() == 2 * shards.index().files.size());
    for (int64_t i = 0; i < 7; ++i) {
        const auto at = static_cast<size_t>(i);
        CHECK(bytes_of(tree.scratch / shards.index().member(i)) ==
              bytes_of(tree.dir + "/train/" + shards.index().files[at]));
        CHECK(text_of(tree.scratch / (ShardIndex::key(i) + ".cls")) ==
              std::to_string(shards.index().records[at].label));
    }
    CHECK(shards.index().member(0) == "000000000.jpg");
    CHECK(text_of(tree.packed + "/train/dataset.json").find("\"dog one\"") != std::string::npos);
}

TEST_CASE("shards: data set, order and crops are those of the folder") {
    const Tree tree;
    tree.pack();
    for (const Split split : {Split::train, Split::evaluation}) {
        const auto folder = open_dataset("folder", tree.dir, split);
        const auto shards = open_dataset("folder", tree.packed, split);
        CHECK(shards->fingerprint() == folder->fingerprint());
        CHECK(shards->origin_fingerprint() == folder->fingerprint());
        CHECK(shards->class_names() == folder->class_names());
        REQUIRE(shards->size() == folder->size());
        for (int64_t i = 0; i < folder->size(); ++i) {
            CHECK(shards->id(i) == folder->id(i));
            CHECK(shards->label(i) == folder->label(i));
            CHECK(shards->picture(i).rgb == folder->picture(i).rgb);
        }
        const std::vector<Batch> expected = epoch_of(*folder, 0);
        REQUIRE(expected.size() == 2);
        for (const int workers : {0, 3}) {
            const std::vector<Batch> batches = epoch_of(*shards, workers);
            REQUIRE(batches.size() == expected.size());
            for (size_t b = 0; b < batches.size(); ++b) {
                CHECK(batches[b].pictures == expected[b].pictures);
                CHECK(batches[b].targets == expected[b].targets);
                CHECK(batches[b].pixels == expected[b].pixels);
            }
        }
    }
    const auto list = open_pictures({tree.packed + "/val"}), files = open_pictures({tree.dir + "/val"});
    REQUIRE(list->size() == files->size());
    for (int64_t i = 0; i < list->size(); ++i) {
        CHECK(fs::relative(list->id(i), tree.packed) == fs::relative(files->id(i), tree.dir));
        CHECK(list->picture(i).rgb == files->picture(i).rgb);
    }
}

TEST_CASE("shards: larger pictures are brought to a shorter side") {
    const Tree tree;
    const Packed packed = tree.pack({.resize = 80, .quality = 90});
    const auto folder = open_dataset("folder", tree.dir, Split::train);
    const auto shards = open_dataset("folder", tree.packed, Split::train);
    CHECK(shards->fingerprint() != folder->fingerprint());
    CHECK(shards->origin_fingerprint() == folder->fingerprint());
    int64_t reencoded = 0;
    Resampler resampler;
    for (int64_t i = 0; i < folder->size(); ++i) {
        INFO(folder->id(i));
        const Image before = folder->picture(i), after = shards->picture(i);
        const int shorter = std::min(before.height, before.width);
        if (shorter <= 80) {
            CHECK(after.rgb == before.rgb);
            continue;
        }
        ++reencoded;
        Image small{80 * before.height / shorter, 80 * before.width / shorter, {}};
        resampler.resize(before, {0, 0, before.height, before.width}, small.height, small.width,
                         Filter::bicubic, small.rgb);
        CHECK(after.rgb == decode_image(encode_jpeg(small, 90), "small").rgb);
    }
    CHECK(reencoded >= 3);
    CHECK(packed.reencoded >= reencoded);
    const Shards opened(tree.packed + "/train");
    CHECK(opened.index().resize == 80);
    CHECK(opened.index().quality == 90);
    CHECK(opened.index().reencoded == reencoded);
    const std::string about = text_of(tree.packed + "/train/dataset.json");
    CHECK(about.find("\"resize\": 80") != std::string::npos);
    CHECK(about.find("\"jpeg_quality\": 90") != std::string::npos);

    // Labels of the folder's pictures fit: their crops are relative.
    const std::string path = tree.scratch / "labels";
    const SoftLabelHeader header{LabelType::hard, 0, 1, folder->classes(), folder->fingerprint(), 1, 1};
    const auto sink = make_packed_sink(path, header, *folder);
    sink->resume([] { return false; });
    for (int64_t i = 0; i < folder->size(); ++i) {
        PictureLabels labels;
        std::vector<float> p(static_cast<size_t>(folder->classes()));
        p[static_cast<size_t>(folder->label(i))] = 1.0F;
        const std::vector<Coords> coords{{0.1, 0.1, 0.5, 0.5}};
        pack_labels(header.type, coords, std::vector<uint8_t>{0}, p, labels);
        sink->append(i, labels);
    }
    sink->finish();
    CHECK(open_soft_labels(path, *shards, LabelType::hard, true)->header().pictures == folder->size());
}

TEST_CASE("shards: damage is told by shard and member") {
    const Tree tree;
    tree.pack();
    const std::string folder = tree.packed + "/train", out = tree.scratch / "out";
    const ShardIndex index = Shards(folder).index();
    const auto unpacks = [&] { unpack_folder(tree.packed, out, kNeverStops); };
    for (int64_t i = 0; i < 7; ++i) {
        const ShardRecord& record = index.records[static_cast<size_t>(i)];
        const std::string name = ShardIndex::shard_name(record.shard), path = folder + "/" + name;
        const std::string member = name + ": " + index.member(i);
        const Bytes whole = bytes_of(path);
        for (const uint64_t at : {record.at, record.at + record.size / 2, record.at + record.size - 1}) {
            flip_bit(path, at);
            const auto dataset = open_dataset("folder", tree.packed, Split::train);
            CHECK(refuses(member, [&] { dataset->picture(i); }));
            CHECK(refuses(member, unpacks));
            write_bytes(path, whole);
        }
        // What training does not read is looked at when it is unpacked.
        const uint64_t behind = record.at + record.size + tar_padding(record.size);
        for (const uint64_t at : {record.at - kTarBlock, record.at - 1, behind, behind + kTarBlock,
                                  behind + 2 * kTarBlock - 1, uint64_t{whole.size()} - 1}) {
            flip_bit(path, at);
            CHECK(refuses(name + ": ", unpacks));
            write_bytes(path, whole);
        }
        write_bytes(path, Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(record.at + 5)));
        CHECK(refuses(name, [&] { open_dataset("folder", tree.packed, Split::train); }));
        CHECK(refuses(index.member(i), [&] { open_dataset("folder", tree.packed, Split::train); }));
        fs::remove(path);
        CHECK(refuses(name, [&] { open_dataset("folder", tree.packed, Split::train); }));
        write_bytes(path, whole);
    }
    CHECK_FALSE(fs::exists(out));
    fs::remove(folder + "/" + kShardIndex);
    CHECK(refuses(kShardIndex, [&] { open_dataset("folder", tree.packed, Split::train); }));
}

TEST_CASE("shards: an index with any bit flipped or any end cut off is refused") {
    const Tree tree;
    tree.pack();
    const Bytes whole = bytes_of(tree.packed + "/train/" + kShardIndex);
    CHECK(read_shard_index(whole, "some.index").files.size() == 7);
    for (size_t at = 0; at < whole.size(); ++at) {
        Bytes bytes = whole;
        bytes[at] ^= static_cast<uint8_t>(1U << at % 8);
        CHECK(refuses("some.index", [&] { read_shard_index(bytes, "some.index"); }));
        bytes.resize(at);
        CHECK(refuses("some.index", [&] { read_shard_index(bytes, "some.index"); }));
    }
}

TEST_CASE("shards: hostile indexes are refused") {
    ShardIndex good;
    good.classes = {"cat", "dog"};
    good.files = {"cat/1.jpg", "dog/2.jpg"};
    good.records = {{512, 1000, 0, 0, 0, 0}, {3072, 1000, 0, 0, 1, 0}};
    good.shard_bytes = {10240};
    CHECK(read_shard_index(write_shard_index(good), "some.index").files == good.files);
    for (const char* name : {"cat/../../x.jpg", "/etc/passwd", "cat//1.jpg", "cat/./1.jpg", "", "cat/",
                             "../cat/1.jpg", "dog/1.jpg", "cat"}) {
        INFO(name);
        ShardIndex bad = good;
        bad.files[0] = name;
        CHECK(refused(bad));
    }
    for (const char* name : {"..", ".", "", "/", "cat/deep", "/cat"}) {
        INFO(name);
        ShardIndex bad = good;
        bad.classes[0] = name;
        bad.files[0] = std::string(name) + "/1.jpg";
        CHECK(refused(bad));
    }
    constexpr uint64_t kHuge = ~uint64_t{0};
    const ShardRecord records[] = {{512, 20000, 0, 0, 0, 0},
                                   {20480, 10, 0, 0, 0, 0},
                                   {kHuge - 511, 1024, 0, 0, 0, 0},
                                   {512, kHuge, 0, 0, 0, 0},
                                   {0, 100, 0, 0, 0, 0},
                                   {513, 100, 0, 0, 0, 0},
                                   {512, 1000, 0, 1, 0, 0},
                                   {512, 1000, 0, ~0U, 0, 0},
                                   {512, 1000, 0, 0, 2, 0},
                                   {512, 1000, 0, 0, ~0U, 0},
                                   {512, 1000, 0, 0, 1, 0},
                                   {512, 1000, 0, 0, 0, 5},
                                   {3072, 1000, 0, 0, 0, 0},
                                   {2560, 1000, 0, 0, 0, 0},
                                   {512, 2100, 0, 0, 0, 0},
                                   {512, uint64_t{1} << 31, 0, 0, 0, 0}};
    for (const ShardRecord& record : records) {
        INFO(record.at << " " << record.size << " " << record.shard << " " << record.label);
        ShardIndex bad = good;
        bad.records[0] = record;
        CHECK(refused(bad));
    }
    ShardIndex bad = good;
    bad.files.pop_back();  // fewer names than pictures
    CHECK(refused(bad));
    bad = good;
    bad.files.emplace_back("dog/3.jpg");
    CHECK(refused(bad));
    CHECK(refused(ShardIndex{}));

    // Counts that do not fit in the file, with checksums that fit.
    const Bytes whole = write_shard_index(good);
    for (const uint64_t count : {kHuge, kHuge / sizeof(ShardRecord) + 1, uint64_t{1} << 40, uint64_t{3}}) {
        for (int field = 0; field < 3; ++field) {
            ShardIndexHeader header;
            std::memcpy(&header, whole.data(), sizeof header);
            if (field == 0) header.pictures = count;
            if (field == 1) header.names = count;
            if (field == 2) header.shards = static_cast<uint32_t>(count);
            header.check = header_check(header);
            Bytes bytes = whole;
            std::memcpy(bytes.data(), &header, sizeof header);
            CHECK(refuses("some.index", [&] { read_shard_index(bytes, "some.index"); }));
        }
    }
}

TEST_CASE("shards: a picture that stands twice in the index is not written twice") {
    const Tree tree;
    tree.pack({});
    const std::string path = tree.packed + "/train/" + kShardIndex;
    ShardIndex index = read_shard_index(bytes_of(path), path);
    index.files[1] = index.files[0];
    write_bytes(path, write_shard_index(index));
    CHECK(refuses("twice", [&] { unpack_folder(tree.packed, tree.scratch / "out", kNeverStops); }));
    CHECK_FALSE(fs::exists(tree.scratch / "out"));
}

TEST_CASE("shards: what is stopped or fails leaves nothing") {
    const Tree tree;
    const std::set<std::string> before = files_below(tree.scratch.path());
    const auto entries = [&] {
        std::set<std::string> names;
        for (const auto& entry : fs::directory_iterator(tree.scratch.path())) {
            names.insert(entry.path().filename().string());
        }
        return names;
    };
    const int threads = engine::threads();
    engine::set_threads(1);  // four pictures at a time are made smaller by each thread
    for (const int resize : {0, 40}) {
        const auto stops = [](const Packed& done) { return done.pictures >= 9; };
        const Packed packed = pack_folder(tree.dir, tree.packed, {.resize = resize}, stops);
        CHECK(packed.pictures < packed.of);
        CHECK(entries() == std::set<std::string>{"tree"});
    }
    engine::set_threads(threads);
    write_bytes(tree.dir + "/train/cat/9.jpg", bytes_of(tree.dir + "/train/cat/1.jpg"));
    fs::resize_file(tree.dir + "/train/cat/9.jpg", 900);
    CHECK(refuses("cat/9.jpg", [&] { tree.pack({.resize = 40}); }));  // decoded
    CHECK(entries() == std::set<std::string>{"tree"});
    fs::remove(tree.dir + "/train/cat/9.jpg");
    CHECK(files_below(tree.scratch.path()) == before);
    tree.pack();
    const auto stops = [](const Packed& done) { return done.pictures >= 9; };
    CHECK(unpack_folder(tree.packed, tree.scratch / "out", stops).pictures == 9);
    CHECK(entries() == std::set<std::string>{"packed", "tree"});
}
