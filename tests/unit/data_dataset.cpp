// Data sets: idx files plain and gzipped, folders of pictures, and everything that must be refused.
#include <sys/resource.h>
#include <zlib.h>

#include <csignal>

#include "data/dataset.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;

namespace {

Bytes idx_bytes(const std::vector<uint32_t>& dims, size_t values) {
    Bytes file{0, 0, 8, static_cast<uint8_t>(dims.size())};
    for (const uint32_t dim : dims) {
        for (int shift = 24; shift >= 0; shift -= 8) file.push_back(static_cast<uint8_t>(dim >> shift));
    }
    for (size_t i = 0; i < values; ++i) file.push_back(static_cast<uint8_t>(i % 10));
    return file;
}

Bytes gzip(const Bytes& bytes) {
    z_stream stream{};
    REQUIRE(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    Bytes out(deflateBound(&stream, bytes.size()) + 64);
    stream.next_in = const_cast<uint8_t*>(bytes.data());
    stream.avail_in = static_cast<uInt>(bytes.size());
    stream.next_out = out.data();
    stream.avail_out = static_cast<uInt>(out.size());
    REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
    out.resize(stream.total_out);
    deflateEnd(&stream);
    return out;
}

void write_fashion(const Scratch& scratch, const std::string& stem, uint32_t count, uint32_t side) {
    const Bytes images = idx_bytes({count, side, side}, size_t{count} * side * side);
    write_bytes(scratch / (stem + "-images-idx3-ubyte.gz"), gzip(images));
    write_bytes(scratch / (stem + "-labels-idx1-ubyte"), idx_bytes({count}, count));
}

Bytes cut(const Bytes& whole, size_t size) {
    return Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
}

}  // namespace

TEST_CASE("idx files read plain and gzipped", "[data]") {
    const Scratch scratch;
    const Bytes file = idx_bytes({3, 4, 5}, 60);
    write_bytes(scratch / "plain", file);
    write_bytes(scratch / "zipped.gz", gzip(file));
    for (const std::string name : {"plain", "zipped.gz"}) {
        const Idx idx = read_idx(scratch / name, 3);
        CHECK(idx.dims == std::vector<int64_t>{3, 4, 5});
        CHECK(idx.values == Bytes(file.begin() + 16, file.end()));
    }
}

TEST_CASE("truncated or wrong idx files are refused by name", "[data][bad-input]") {
    const Scratch scratch;
    const std::string path = scratch / "some-idx";
    const Bytes plain = idx_bytes({3, 4, 5}, 60);
    const Bytes zipped = gzip(plain);
    for (const Bytes* whole : {&plain, &zipped}) {
        for (size_t size = 0; size < whole->size(); ++size) {
            INFO(size << " of " << whole->size());
            write_bytes(path, cut(*whole, size));
            CHECK(refuses("some-idx", [&] { read_idx(path, 3); }));
        }
        Bytes longer = *whole;
        longer.push_back(7);
        write_bytes(path, longer);
        CHECK(refuses("some-idx", [&] { read_idx(path, 3); }));
    }
    write_bytes(path, plain);
    CHECK(refuses("some-idx", [&] { read_idx(path, 1); }));
    Bytes damaged = zipped;
    damaged[damaged.size() - 6] ^= 1;  // the checksum
    write_bytes(path, damaged);
    CHECK(refuses("some-idx", [&] { read_idx(path, 3); }));
    write_bytes(path, idx_bytes({0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}, 8));
    CHECK(refuses("some-idx", [&] { read_idx(path, 3); }));
    write_bytes(path, idx_bytes({0, 4, 5}, 0));
    CHECK(refuses("some-idx", [&] { read_idx(path, 3); }));
    write_bytes(path, gzip(idx_bytes({2, 4, 5}, 60)));  // more pixels than the header says
    CHECK(refuses("some-idx", [&] { read_idx(path, 3); }));
    CHECK(refuses("absent", [&] { read_idx(scratch / "absent", 3); }));
    CHECK(refuses(scratch.path(), [&] { read_idx(scratch.path(), 3); }));
}

TEST_CASE("Fashion-MNIST directories open as gray pictures in RGB", "[data]") {
    const Scratch scratch;
    write_fashion(scratch, "train", 20, 6);
    write_fashion(scratch, "t10k", 10, 6);
    const auto train = open_dataset("fashion-mnist", scratch.path(), Split::train);
    const auto test = open_dataset("fashion-mnist", scratch.path(), Split::evaluation);
    CHECK(train->size() == 20);
    CHECK(test->size() == 10);
    CHECK(train->classes() == 10);
    CHECK(train->class_names()[9] == "Ankle boot");
    CHECK(train->label(13) == 3);
    CHECK(train->id(13) == "train/00013");
    CHECK(test->id(3) == "test/00003");
    const Image image = train->picture(1);
    CHECK(image.height == 6);
    REQUIRE(image.rgb.size() == 108);
    for (size_t i = 0; i < 108; ++i) CHECK(image.rgb[i] == (36 + i / 3) % 10);
    CHECK(train->fingerprint() == open_dataset("fashion-mnist", scratch.path(), Split::train)->fingerprint());
    CHECK(train->fingerprint() != test->fingerprint());
    CHECK_NOTHROW(require_same_classes(*train, *test));
}

TEST_CASE("Fashion-MNIST files that do not belong together are refused", "[data][bad-input]") {
    const Scratch scratch;
    const auto open = [&] { return open_dataset("fashion-mnist", scratch.path(), Split::train); };
    CHECK(refuses("train-labels-idx1-ubyte", open));
    write_fashion(scratch, "train", 20, 6);
    write_bytes(scratch / "train-labels-idx1-ubyte", idx_bytes({19}, 19));
    CHECK(refuses("19 labels", open));
    Bytes labels = idx_bytes({20}, 20);
    labels.back() = 10;
    write_bytes(scratch / "train-labels-idx1-ubyte", labels);
    CHECK(refuses("label 10", open));
    CHECK(refuses("/nowhere", [] { open_dataset("fashion-mnist", "/nowhere", Split::train); }));
    CHECK(refuses("imagenet21k", [] { open_dataset("imagenet21k", "", Split::train); }));
}

TEST_CASE("folders of pictures open sorted, through links and any case of extension", "[data]") {
    namespace fs = std::filesystem;
    const Scratch scratch;
    write_bytes(scratch / "train/dog/b.JPG", fixture("gray.jpg"));
    write_bytes(scratch / "train/dog/a.jpeg", fixture("picture_q90_s2.jpg"));
    write_bytes(scratch / "train/dog/notes.txt", {1, 2, 3});
    write_bytes(scratch / "elsewhere/c.Png", fixture("picture.png"));
    fs::create_directory_symlink(scratch / "elsewhere", scratch / "train/cat");
    fs::create_symlink(scratch / "elsewhere/c.Png", scratch / "train/dog/c.png");
    write_bytes(scratch / "train/README", {1});
    write_bytes(scratch / "test/cat/c.png", fixture("picture.png"));
    write_bytes(scratch / "test/dog/c.png", fixture("picture.png"));
    const auto train = open_dataset("folder", scratch.path(), Split::train);
    REQUIRE(train->size() == 4);
    CHECK(train->class_names() == std::vector<std::string>{"cat", "dog"});
    CHECK(train->id(0) == "train/cat/c.Png");
    CHECK(train->id(1) == "train/dog/a.jpeg");
    CHECK(train->label(0) == 0);
    CHECK(train->label(3) == 1);
    CHECK((train->picture(3).rgb == decode_image(fixture("picture.png"), "picture.png").rgb));
    const auto test = open_dataset("folder", scratch.path(), Split::evaluation);
    CHECK(test->size() == 2);
    CHECK(test->id(0) == "test/cat/c.png");
    CHECK_NOTHROW(require_same_classes(*train, *test));
    write_bytes(scratch / "val/cat/c.png", fixture("picture.png"));
    const auto val = open_dataset("folder", scratch.path(), Split::evaluation);
    CHECK(val->id(0) == "val/cat/c.png");
    CHECK(refuses("dog", [&] { require_same_classes(*train, *val); }));

    const uint64_t before = train->fingerprint();
    fs::rename(scratch / "train/dog/b.JPG", scratch / "train/dog/bb.JPG");
    CHECK(open_dataset("folder", scratch.path() + "/", Split::train)->fingerprint() != before);
    fs::rename(scratch / "train/dog/bb.JPG", scratch / "train/dog/b.JPG");
    CHECK(open_dataset("folder", scratch.path() + "/", Split::train)->fingerprint() == before);
}

TEST_CASE("pictures are found as by torchvision's ImageFolder", "[data]") {
    namespace fs = std::filesystem;
    const Scratch scratch;
    const Bytes picture = fixture("picture.png");
    for (const char* name : {"b/2.png", "b/10.PNG", "b/sub/1.jpeg", "b/sub-x/1.jpg", "b/sub/deep/1.Bmp",
                             "b/.hidden.jpg", "b/.png", "b/notes.txt", "b/picture.png.txt",
                             "b/x.JpG/inside.ppm", "B/1.pgm", ".c/1.png", "README.png"}) {
        write_bytes(scratch / ("train/" + std::string(name)), picture);
    }
    fs::create_symlink(scratch / "nowhere.png", scratch / "train/b/dangling.png");
    fs::create_directory_symlink(scratch / "train/B", scratch / "train/b/linked");
    const auto dataset = open_dataset("folder", scratch.path(), Split::train);
    std::vector<std::string> ids;
    for (int64_t i = 0; i < dataset->size(); ++i) ids.push_back(dataset->id(i));
    // The order of torchvision 0.29 on the same tree.
    CHECK(ids == std::vector<std::string>{"train/.c/1.png", "train/B/1.pgm", "train/b/.hidden.jpg",
                                          "train/b/.png", "train/b/10.PNG", "train/b/2.png",
                                          "train/b/dangling.png", "train/b/linked/1.pgm",
                                          "train/b/sub/1.jpeg", "train/b/sub-x/1.jpg",
                                          "train/b/sub/deep/1.Bmp", "train/b/x.JpG/inside.ppm"});
    CHECK(dataset->class_names() == std::vector<std::string>{".c", "B", "b"});
    CHECK(refuses("dangling.png", [&] { dataset->picture(6); }));
    write_bytes(scratch / "train/b/photo.WebP", picture);
    CHECK(refuses("photo.WebP", [&] { open_dataset("folder", scratch.path(), Split::train); }));
    fs::remove(scratch / "train/b/photo.WebP");
    // Links that lead back bring nothing new, however many ways they make.
    for (const char* name : {"circle", "x.JpG/circle", "sub/here", "sub/up"}) {
        const std::string link = scratch / ("train/b/" + std::string(name));
        fs::create_directory_symlink(link.ends_with("up") ? scratch / "train" : scratch / "train/b", link);
    }
    fs::create_directory_symlink(".", scratch / "train/b/one");
    fs::create_directory_symlink(".", scratch / "train/b/two");
    const auto again = open_dataset("folder", scratch.path(), Split::train);
    REQUIRE(again->size() == dataset->size());
    for (int64_t i = 0; i < again->size(); ++i) CHECK(again->id(i) == ids[static_cast<size_t>(i)]);
}

TEST_CASE("CIFAR-10's binary batches open as pictures in RGB", "[data]") {
    const Scratch scratch;
    const std::string dir = scratch / "cifar-10-batches-bin";
    const auto batch = [](int count, int seed) {
        Bytes bytes;
        for (int i = 0; i < count; ++i) {
            bytes.push_back(static_cast<uint8_t>((i + seed) % 10));
            for (int k = 0; k < 3072; ++k)
                bytes.push_back(static_cast<uint8_t>(k / 1024 * 50 + k % 32 + seed));
        }
        return bytes;
    };
    for (int i = 1; i <= 5; ++i) write_bytes(dir + "/data_batch_" + std::to_string(i) + ".bin", batch(4, i));
    write_bytes(dir + "/test_batch.bin", batch(3, 0));
    for (const std::string& given : {dir, scratch.path()}) {
        const auto train = open_dataset("cifar10", given, Split::train);
        const auto test = open_dataset("cifar10", given, Split::evaluation);
        CHECK(train->size() == 20);
        CHECK(test->size() == 3);
        CHECK(train->label(5) == 3);  // the second of the second batch
        CHECK(train->class_names()[3] == "cat");
        CHECK_NOTHROW(require_same_classes(*train, *test));
        const Image image = train->picture(4);
        CHECK(image.height == 32);
        REQUIRE(image.rgb.size() == 3072);
        for (size_t i = 0; i < 3072; ++i) CHECK(image.rgb[i] == i % 3 * 50 + i / 3 % 32 + 2);
    }
    write_bytes(dir + "/batches.meta.txt", {'o', 'n', 'e', '\n'});
    CHECK(refuses("batches.meta.txt", [&] { open_dataset("cifar10", dir, Split::train); }));
    std::filesystem::remove(dir + "/batches.meta.txt");
    write_bytes(dir + "/data_batch_3.bin", cut(batch(4, 3), 9000));
    CHECK(refuses("data_batch_3.bin", [&] { open_dataset("cifar10", dir, Split::train); }));
    Bytes odd = batch(4, 3);
    odd[3073] = 10;
    write_bytes(dir + "/data_batch_3.bin", odd);
    CHECK(refuses("data_batch_3.bin", [&] { open_dataset("cifar10", dir, Split::train); }));
    std::filesystem::remove(dir + "/data_batch_3.bin");
    CHECK(refuses("data_batch_3.bin", [&] { open_dataset("cifar10", dir, Split::train); }));
}

TEST_CASE("folders without pictures are refused by name", "[data][bad-input]") {
    const Scratch scratch;
    const auto open = [&] { return open_dataset("folder", scratch.path(), Split::train); };
    CHECK(refuses("`data`", [] { open_dataset("folder", "", Split::train); }));
    CHECK(refuses("/nowhere", [] { open_dataset("folder", "/nowhere", Split::train); }));
    CHECK(refuses(scratch.path(), open));
    std::filesystem::create_directories(scratch / "train");
    CHECK(refuses("train", open));
    std::filesystem::create_directories(scratch / "train/empty-class");
    CHECK(refuses("empty-class", open));
    CHECK(refuses("val or test", [&] { open_dataset("folder", scratch.path(), Split::evaluation); }));
    write_bytes(scratch / "train/empty-class/broken.jpg", cut(fixture("gray.jpg"), 3000));
    const auto dataset = open();
    CHECK(refuses("broken.jpg", [&] { dataset->picture(0); }));
    std::filesystem::remove(scratch / "train/empty-class/broken.jpg");
    CHECK(refuses("broken.jpg", [&] { dataset->picture(0); }));
    write_bytes(scratch / "train/empty-class/broken.jpg", fixture("gray.jpg"));
    CHECK(refuses("10", [&] { open_dataset("cifar10", scratch.path(), Split::train); }));
}

TEST_CASE("an atomic file appears whole or not at all", "[data]") {
    const Scratch scratch;
    const std::string path = scratch / "file";
    const auto entries = [&] {
        return std::distance(std::filesystem::directory_iterator(scratch.path()),
                             std::filesystem::directory_iterator());
    };
    {
        AtomicFile file(path);
        file.write("first", 5);
        file.commit();
    }
    {
        AtomicFile file(path);
        file.write("abandoned", 9);
    }
    CHECK(read_file(path, "") == Bytes{'f', 'i', 'r', 's', 't'});
    CHECK(entries() == 1);

    // A full disk, played by a limit on file sizes.
    rlimit before{};
    REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{100, before.rlim_max};
    REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
    bool failed = false;
    try {
        AtomicFile file(path);
        const Bytes much(1000);
        file.write(much.data(), much.size());
        file.commit();
    } catch (const engine::Error& error) {
        failed =
            error.fault() == engine::Fault::run && std::string(error.what()).find(path) != std::string::npos;
    }
    REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
    std::signal(SIGXFSZ, handler);
    CHECK(failed);
    CHECK(read_file(path, "") == Bytes{'f', 'i', 'r', 's', 't'});
    CHECK(entries() == 1);

    CHECK(refuses("nowhere", [&] { AtomicFile(scratch / "nowhere/file"); }));
    CHECK(refuses(scratch.path(), [&] { AtomicFile file(scratch.path()); }));
}
