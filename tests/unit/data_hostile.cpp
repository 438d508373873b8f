// Files and folders that are not what they seem: pipes and devices, links in circles, palettes that end too
// early, data sets of which nothing can be decoded.
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "apps/options/options.h"
#include "data/fkd_labels.h"
#include "data/idx.h"
#include "data/loader.h"
#include "data/packed_labels.h"
#include "data/state_file.h"
#include "tests/cost.h"
#include "tests/hostile_files.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;
namespace fs = std::filesystem;

namespace {

// A pipe that nobody writes to.
void make_pipe(const std::string& path) {
    fs::create_directories(fs::path(path).parent_path());
    fs::remove(path);
    REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
}

// Checks that `action` ends at once with an error of the input that names `name`.
void check_refused(const std::string& name, const std::function<void()>& action) {
    const Cost cost = cost_of(action);
    INFO(name << ": " << cost.error);
    CHECK(cost.ended);
    CHECK(cost.error.find(name) != std::string::npos);
    CHECK(cost.error.find("is not a file: ") != std::string::npos);
    CHECK(cost.error.find("not of the input") == std::string::npos);
}

void open_picture(const std::string& path) { PictureReader().open_file(path); }

// Reads an epoch, leaving out what cannot be decoded; the pictures that were seen.
std::vector<int64_t> pictures_of(const Dataset& dataset, LoaderMode mode, int batch_size, int workers) {
    LoaderOptions options;
    options.mode = mode;
    options.batch_size = batch_size;
    options.image_size = 8;
    options.workers = workers;
    options.skip_bad = true;
    Loader loader(dataset, options);
    loader.start(0);
    std::vector<int64_t> seen;
    for (Batch batch; loader.next(batch);) {
        seen.insert(seen.end(), batch.pictures.begin(), batch.pictures.end());
    }
    return seen;
}

}  // namespace

TEST_CASE("a pipe where a file is expected is an error at once", "[data][bad-input]") {
    const Scratch scratch;
    const std::string pipe = scratch / "pipe";
    make_pipe(pipe);
    check_refused(pipe, [&] { open_picture(pipe); });
    check_refused(pipe, [&] { StateFile{pipe}; });
    check_refused(pipe, [&] { SafeTensors::open(pipe); });
    check_refused(pipe, [&] { PackedLabels::open(pipe); });
    check_refused(pipe, [&] { read_idx(pipe, 3); });
    check_refused(pipe, [&] { apps::parse_options({"train", "--config", pipe}); });

    const std::string images = scratch / "idx/train-images-idx3-ubyte",
                      labels = scratch / "idx/train-labels-idx1-ubyte";
    make_pipe(labels);
    check_refused(labels, [&] { open_dataset("fashion-mnist", scratch / "idx", Split::train); });
    write_bytes(labels, {0, 0, 8, 1, 0, 0, 0, 1, 3});
    make_pipe(images + ".gz");
    check_refused(images, [&] { open_dataset("fashion-mnist", scratch / "idx", Split::train); });

    const std::string batch = scratch / "cifar/test_batch.bin", names = scratch / "cifar/batches.meta.txt";
    make_pipe(batch);
    check_refused(batch, [&] { open_dataset("cifar10", scratch / "cifar", Split::evaluation); });
    write_bytes(batch, Bytes(3073));
    make_pipe(names);
    check_refused(names, [&] { open_dataset("cifar10", scratch / "cifar", Split::evaluation); });

    const std::string picture = scratch / "set/train/a/1.png", label = scratch / "labels/set/train/a/1.tar";
    make_pipe(picture);
    check_refused(picture, [&] {
        const auto dataset = open_dataset("folder", scratch / "set", Split::train);
        dataset->picture(0);
    });
    write_bytes(scratch / "set/train/a/2.png", fixture("picture.png"));
    const auto dataset = open_dataset("folder", scratch / "set", Split::train);
    CHECK(pictures_of(*dataset, LoaderMode::training, 2, 2) == std::vector<int64_t>{1, 1});
    make_pipe(label);
    check_refused(label, [&] { FkdLabels(scratch / "labels", *dataset, LabelType::hard); });
    CHECK(list_fkd(scratch / "labels") == std::vector<std::string>{"set/train/a/1"});
}

TEST_CASE("devices, sockets and directories are no files", "[data][bad-input]") {
    const Scratch scratch;
    for (const std::string path : {"/dev/zero", "/dev/null", "/dev/full"}) {
        check_refused(path, [&] { open_picture(path); });
        check_refused(path, [&] { StateFile{path}; });
    }
    fs::create_directory_symlink(scratch.path(), scratch / "x.png");
    check_refused("x.png", [&] { open_picture(scratch / "x.png"); });
    const std::string path = scratch / "socket";
    const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    REQUIRE(::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    check_refused(path, [&] { open_picture(path); });
    check_refused(path, [&] { SafeTensors::open(path); });
    ::close(socket);
}

TEST_CASE("links in circles are followed once", "[data][bad-input]") {
    const Scratch scratch;
    write_bytes(scratch / "train/a/deep/1.png", fixture("picture.png"));
    write_bytes(scratch / "labels/a/deep/1.tar", Bytes{1});
    for (const std::string& root : {scratch / "train/a", scratch / "labels"}) {
        for (const char* name : {"one", "two", "three"}) fs::create_directory_symlink(".", root + "/" + name);
    }
    fs::create_directory_symlink("..", scratch / "train/a/deep/up");
    fs::create_directory_symlink("../..", scratch / "labels/a/deep/up");
    const Cost cost = cost_of([&] {
        const auto dataset = open_dataset("folder", scratch.path(), Split::train);
        if (dataset->size() != 1 || dataset->id(0) != "train/a/deep/1.png") engine::run_error(dataset->id(0));
        const auto labels = list_fkd(scratch / "labels");
        if (labels != std::vector<std::string>{"a/deep/1"}) engine::run_error(labels[0]);
    });
    INFO(cost.error);
    CHECK(cost.ended);
    CHECK(cost.error.empty());
}

TEST_CASE("pictures that all or nearly all are bad end in an error or in full batches", "[data][bad-input]") {
    const Scratch scratch;
    const Bytes jpeg = fixture("picture_q75_s0.jpg");
    const Bytes cut(jpeg.begin(), jpeg.begin() + static_cast<std::ptrdiff_t>(jpeg.size() / 2));
    write_bytes(scratch / "train/a/0.png", {1});
    write_bytes(scratch / "train/a/1.jpg", cut);
    write_bytes(scratch / "train/a/2.png", {2});
    const auto dataset = open_dataset("folder", scratch.path(), Split::train);
    for (const int workers : {0, 2}) {
        const Cost cost = cost_of([&] { pictures_of(*dataset, LoaderMode::training, 3, workers); });
        INFO(cost.error);
        CHECK(cost.ended);
        CHECK(cost.error.find("no picture of '" + scratch / "train") != std::string::npos);
        CHECK(pictures_of(*dataset, LoaderMode::evaluation, 3, workers).empty());
    }
    write_bytes(scratch / "train/b/3.jpg", jpeg);
    const auto better = open_dataset("folder", scratch.path(), Split::train);
    for (const int workers : {0, 2}) {
        CHECK(pictures_of(*better, LoaderMode::training, 4, workers) == std::vector<int64_t>(4, 3));
        CHECK(pictures_of(*better, LoaderMode::evaluation, 4, workers) == std::vector<int64_t>{3});
    }
}

TEST_CASE("colors beyond a palette's end are black", "[data][bad-input]") {
    const auto pixels = [](const Bytes& file, const std::string& name) {
        const Bytes dirt(1 << 16, 0xAA);
        const Image image = decode_image(file, name);
        return std::vector<int>{image.rgb[0], image.rgb[1], image.rgb[2]};
    };
    const std::vector<int> black{0, 0, 0};
    for (int time = 0; time < 3; ++time) {
        CHECK(pixels(plain_bmp(5, 3, 8, 4, 3), "x.bmp") == std::vector<int>{102, 101, 100});
        CHECK(pixels(plain_bmp(5, 3, 8, 4, 4), "x.bmp") == black);
        CHECK(pixels(plain_bmp(5, 3, 8, 4, 255), "x.bmp") == black);
        CHECK(pixels(plain_bmp(5, 3, 4, 2, 0x22), "x.bmp") == black);
        CHECK(pixels(plain_bmp(5, 3, 1, 1, 0xFF), "x.bmp") == black);
        Bytes png = blank_png(4, 2, 8, 3);
        CHECK(pixels(png, "x.png") == std::vector<int>{1, 2, 3});
        CHECK(pixels(filled_palette_png(1), "x.png") == std::vector<int>{4, 5, 6});
        for (const uint8_t index : {2, 77, 255}) CHECK(pixels(filled_palette_png(index), "x.png") == black);
    }
}

TEST_CASE("BMP files that Pillow refuses are refused", "[data][bad-input]") {
    const auto refused = [](Bytes file, size_t at, uint8_t value) {
        file[at] = value;
        return refuses("x.bmp", [&] { decode_image(file, "x.bmp"); });
    };
    constexpr size_t kHeaderSize = 14, kBits = 28, kCompression = 30, kColors = 46;
    const Bytes eight = plain_bmp(5, 3, 8, 4, 0), four = plain_bmp(5, 3, 4, 4, 0),
                deep = plain_bmp(5, 9, 32, 0, 9);
    CHECK(!refused(eight, kColors, 4));
    CHECK(refused(eight, kHeaderSize, 41));
    for (const uint8_t bits : {0, 2, 3, 7, 64}) CHECK(refused(eight, kBits, bits));
    CHECK(refused(eight, kCompression, 3));  // masks with a palette
    for (const uint8_t compression : {4, 5, 6, 9}) CHECK(refused(deep, kCompression, compression));
    CHECK(!refused(deep, kCompression, 0));
    CHECK(refused(deep, kCompression, 3));  // masks 0x09090909
    CHECK(refused(eight, kColors + 3, 1));  // 2^24 colors
    Bytes numbers = four;                   // grays 0 to 3, which Pillow takes for whole bytes
    for (size_t i = 0; i < 4; ++i) std::fill_n(&numbers[54 + 4 * i], 3, static_cast<uint8_t>(i));
    CHECK(!refused(four, 54, 1));
    CHECK(refused(numbers, 57, 0));
}

TEST_CASE("JPEG files that Pillow refuses are refused", "[data][bad-input]") {
    const Bytes jpeg = fixture("gray.jpg");
    const auto with = [&](const Bytes& segment) {
        Bytes file = jpeg;
        file.insert(file.begin() + 2, segment.begin(), segment.end());
        return file;
    };
    const auto refused = [](const Bytes& file) {
        return refuses("x.jpg", [&] { decode_image(file, "x.jpg"); });
    };
    // libjpeg passes over all of these.
    CHECK(refused(with({0})));           // no marker at the start
    CHECK(refused(with({0xFF, 0x02})));  // an unknown marker
    CHECK(refused(with({0xFF, 0xE0, 0, 8, 'J', 'F', 'I', 'F', 0, 1})));
    CHECK(refused(with({0xFF, 0xEE, 0, 8, 'A', 'd', 'o', 'b', 'e', 0})));
    CHECK(refused(with({0xFF, 0xE2, 0, 15, 'I', 'C', 'C', '_', 'P', 'R', 'O', 'F', 'I', 'L', 'E', 0, 1})));
    CHECK(!refused(with({0xFF, 0xE3, 0, 3, 1, 0xFF, 0xFF, 0xFE, 0, 2})));
}

TEST_CASE("too few threads: the message names the flag", "[data]") {
    if (kSanitized) SUCCEED("not with AddressSanitizer, whose address space has no limit");
    if (kSanitized) return;
    const Scratch scratch;
    write_bytes(scratch / "train/a/1.png", fixture("picture.png"));
    const auto dataset = open_dataset("folder", scratch.path(), Split::train);
    const Cost cost = cost_of([&] {
        std::ifstream statm("/proc/self/statm");
        rlim_t pages = 0;
        statm >> pages;
        const rlim_t most = pages * static_cast<rlim_t>(::sysconf(_SC_PAGESIZE)) + (rlim_t{100} << 20);
        const rlimit limit{most, most};
        ::setrlimit(RLIMIT_AS, &limit);
        pictures_of(*dataset, LoaderMode::evaluation, 1, 500);
    });
    INFO(cost.error);
    CHECK(cost.ended);
    CHECK(cost.error.find("cannot start 500 loading threads") != std::string::npos);
    CHECK(cost.error.find("`workers`") != std::string::npos);
}
