// Small files that ask for much: no reader takes more than 10 s, or 1 GiB for the process with 8 threads, on
// a file of at most 2 MB.
#include <zlib.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "data/fkd_labels.h"
#include "data/idx.h"
#include "data/loader.h"
#include "data/memory_share.h"
#include "data/state_file.h"
#include "data/torch_file.h"
#include "data/zip_file.h"
#include "tests/cost.h"
#include "tests/hostile_files.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::data;
using namespace vvtq::tests;

namespace {

constexpr size_t kSmall = 2'000'000;
constexpr double kSeconds = 10;
constexpr int64_t kMebibytes = 1024;

void show(const std::string& what, const Cost& cost) {
    if (std::getenv("VVTQ_COSTS") == nullptr) return;
    std::fprintf(stderr, "%-32s %6.2f s %5ld MiB  %s\n", what.c_str(), cost.seconds,
                 static_cast<long>(cost.mebibytes), cost.error.c_str());
}

// Checks what `action` takes. Errors of the input are fine.
Cost check_cost(const std::string& what, const std::function<void()>& action) {
    const Cost cost = cost_of(action);
    INFO(what << ": " << cost.seconds << " s, " << cost.mebibytes << " MiB, " << cost.error);
    CHECK(cost.ended);
    CHECK(cost.error.find("not of the input") == std::string::npos);
    if (!kSanitized) {
        CHECK(cost.seconds < kSeconds);
        CHECK(cost.mebibytes < kMebibytes);
    }
    show(what, cost);
    return cost;
}

// An epoch over the pictures of `dir`, each cropped once.
void read_pictures(const std::string& dir, LoaderMode mode, int workers) {
    const auto dataset = open_dataset("folder", dir, Split::train);
    LoaderOptions options;
    options.mode = mode;
    options.image_size = 32;
    options.workers = workers;
    options.skip_bad = true;
    options.rule.area_low = 0.5;
    Loader loader(*dataset, options);
    loader.start(0);
    for (Batch batch; loader.next(batch);) {
    }
}

// One picture alone, then eight threads at once, as the loader's are.
void check_picture(const std::string& name, const Bytes& bytes, const Bytes& at_once = {}) {
    const Scratch scratch;
    CHECK(bytes.size() <= kSmall);
    const std::string path = scratch / ("train/a/" + name);
    write_bytes(path, bytes);
    check_cost(name, [&] { read_pictures(scratch.path(), LoaderMode::evaluation, 0); });
    if (at_once.empty() || kSanitized) return;
    write_bytes(path, at_once);
    constexpr int kThreads = 8;
    for (int i = 1; i < kThreads; ++i) {
        std::filesystem::create_hard_link(path, scratch / ("train/a/" + std::to_string(i) + name));
    }
    const Cost cost = cost_of([&] { read_pictures(scratch.path(), LoaderMode::labelling, kThreads); });
    show("    eight at once", cost);
    INFO(name << ", eight at once: " << cost.seconds << " s, " << cost.mebibytes << " MiB, " << cost.error);
    CHECK(cost.ended);
    if (!kSanitized) CHECK(cost.mebibytes < kMebibytes);
}

}  // namespace

TEST_CASE("limits: pictures that are small files", "[data][limits]") {
    check_picture("gray.png", blank_png(1 << 14, 1 << 13, 1, 0), blank_png(1 << 13, 1 << 12, 1, 0));
    check_picture("rgba16.png", blank_png(1 << 12, 1 << 13, 16, 6));
    check_picture("passes.png", blank_png(1 << 13, 1 << 13, 8, 2, true),
                  blank_png(1 << 13, 1 << 12, 8, 2, true));
    check_picture("wide.png", blank_png(1 << 27, 1, 8, 0));
    check_picture("tall.png", blank_png(1, 1 << 23, 8, 0), blank_png(1, 1 << 22, 8, 0));
    check_picture("baseline.jpg", blank_jpeg(1 << 14, 1 << 13, 3, 0), blank_jpeg(1 << 14, 1 << 13, 3, 0));
    check_picture("scans.jpg", blank_jpeg(1 << 13, 1 << 13, 1, 490));
    check_picture("color_scans.jpg", blank_jpeg(1 << 13, 1 << 12, 3, 490));
    check_picture("bilevel.bmp", plain_bmp(4000, 3900, 1, 2, 0x55), plain_bmp(4000, 3900, 1, 2, 0x55));
}

TEST_CASE("limits: a picture is looked at before it is read", "[data][limits]") {
    const Scratch scratch;
    for (const std::string magic : {"", "not a picture", "\x89PNG", "BM"}) {
        const std::string path = scratch / "train/a/1.png";
        write_bytes(path, Bytes(magic.begin(), magic.end()));
        std::filesystem::resize_file(path, uint64_t{8} << 30);
        const Cost cost = check_cost("8 GiB of " + magic, [&] { PictureReader().open_file(path); });
        CHECK(cost.error.find(path) != std::string::npos);
        CHECK(cost.seconds < 1);
    }
}

TEST_CASE("limits: pickles, archives and headers", "[data][limits]") {
    const Scratch scratch;
    const std::string path = scratch / "evil.pth";
    const auto check_state = [&](const std::string& what, const Bytes& bytes) {
        CHECK(bytes.size() <= kSmall);
        write_bytes(path, bytes);
        return check_cost(what, [&] {
            const StateFile state(path);
            for (const auto& [name, entry] : state.entries()) state.read<float>(name);
        });
    };
    const auto in_zip = [](const Bytes& pickle, const Bytes& storage) {
        return write_zip({{"a/data.pkl", pickle}, {"a/data/0", storage}});
    };
    const auto letters = [](const std::string& text) { return Bytes(text.begin(), text.end()); };
    using namespace std::string_literals;

    // A text of 160 KB that names a class again and again.
    std::string names = "\x80\x04X\0\x71\x02\0"s + std::string(160'000, 'x') + "\x94"s;
    for (int i = 0; i < 30'000; ++i) names += "h\0h\0\x93\x30"s;
    CHECK(check_state("long names of classes", in_zip(letters(names + "."), {})).error.find("a long name") !=
          std::string::npos);
    check_state("a million values", in_zip(letters("\x80\x02" + std::string(1'900'000, 'N') + "."), {}));
    check_state(
        "lists in lists",
        in_zip(letters("\x80\x02" + std::string(900'000, ']') + std::string(899'999, 'a') + "."), {}));

    // One numpy array that is decoded from a text, under a hundred thousand names.
    std::string array =
        "\x80\x02}(X\1\0\0\0acnumpy.core.multiarray\n_reconstruct\n)R(K\1(J\x40\x42\x0F\0tcnumpy\ndtype\n"s;
    array +=
        "(X\2\0\0\0u1tRK\0c_codecs\nencode\n(X\x40\x42\x0F\0"s + std::string(1'000'000, 'x') + "tRtbq\0"s;
    for (int i = 0; i < 80'000; ++i) {
        array += "X\4\0\0\0"s;
        for (int shift = 0; shift < 20; shift += 5) array += static_cast<char>('A' + (i >> shift & 31));
        array += "h\0"s;
    }
    CHECK(check_state("one array under many names", in_zip(letters(array + "u."), {}))
              .error.find("describes 8") != std::string::npos);

    std::vector<std::string> entries{"a/data/0"};
    for (int i = 0; i < 25'000; ++i) entries.push_back("a/data/" + std::to_string(10'000 + i));
    check_state("many entries of one content",
                deflated_zip({{{"a/data.pkl"}, letters("\x80\x02N.")}, {entries, Bytes(1'000'000)}}));
    check_state("a hundred megabytes of zeros",
                deflated_zip({{{"a/data.pkl"}, letters("\x80\x02N.")}, {{"a/data/0"}, Bytes(100'000'000)}}));

    std::string header = "{";
    for (int i = 0; i < 35'000; ++i) {
        header += (i > 0 ? "," : "") + ("\"" + std::to_string(i)) +
                  R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
    }
    header += "}";
    Bytes tensors(8);
    for (size_t i = 0; i < 8; ++i) tensors[i] = static_cast<uint8_t>(header.size() >> (8 * i));
    tensors.insert(tensors.end(), header.begin(), header.end());
    const Cost many = check_state("many names in a safetensors header", tensors);
    CHECK(many.error.empty());
    if (!kSanitized) CHECK(many.seconds < 2);
}

TEST_CASE("limits: lists and texts that a checkpoint of torch names again and again", "[data][limits]") {
    using namespace std::string_literals;
    const Scratch scratch;
    const auto text = [](const std::string& value) {
        std::string out = "X";
        for (int shift = 0; shift < 32; shift += 8) out += static_cast<char>(value.size() >> shift & 255);
        return out + value;
    };
    const auto times = [](int count, const std::string& value) {
        std::string out;
        for (int i = 0; i < count; ++i) out += value;
        return out;
    };
    const std::string tensor = "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") +
                               "ctorch\nFloatStorage\n" + text("0") + text("cpu") +
                               "K\1tQK\0K\1\x85K\1\x85\x89"
                               "ccollections\nOrderedDict\n)RtR"s;
    const auto check = [&](const std::string& what, const std::string& beside) {
        const std::string pickle = "\x80\2}("s + text("w") + tensor + "q\0"s + beside + "u.";
        const Bytes code(pickle.begin(), pickle.end()), storage(4);
        const Bytes bytes = write_zip({{"a/data.pkl", code}, {"a/data/0", storage}});
        CHECK(bytes.size() <= kSmall);
        write_bytes(scratch / "evil.pth", bytes);
        const Cost cost = check_cost(what, [&] { StateFile{scratch / "evil.pth"}; });
        CHECK(cost.error.find("evil.pth") != std::string::npos);
        CHECK(cost.error.find("fetch it again") != std::string::npos);
    };
    const std::string optimizer = text("optimizer") + "}(" + text("state");
    const std::string group =
        "}(" + text("params") + "](K\0e" + text("param_names") + "](" + text("p") + "eu";
    check("one group a hundred thousand times",
          optimizer + "}" + text("param_groups") + "](}(" + text("params") + "](" + times(150'000, "K\0"s) +
              "e" + text("param_names") + "](" + text("p") + "q\1"s + times(150'000, "h\1") + "euq\2" +
              times(100'000, "h\2") + "eu");
    check("one state a hundred thousand times",
          optimizer + "}(K\0q\3}("s + text("z") + "q\4N" + times(150'000, "h\4N") + "uq\5" +
              times(100'000, "h\3h\5") + "u" + text("param_groups") + "](" + group + "eu");
    std::string texts = text(std::string(500'000, 'x')) + "q\6" + "0" + text("vvtq") + "}(";
    for (int i = 0; i < 50'000; ++i) texts += text(std::to_string(i)) + "h\6";
    check("one text of metadata under many names", texts + "u");
}

TEST_CASE("limits: labels and idx files", "[data][limits]") {
    const Scratch scratch;
    const auto check_labels = [&](const std::string& what, const Bytes& bytes) {
        CHECK(bytes.size() <= kSmall);
        const Cost cost = check_cost(what, [&] {
            std::vector<std::thread> threads;
            for (int i = 0; i < 8; ++i) {
                threads.emplace_back([&] {
                    PictureLabels labels;
                    try {
                        parse_fkd(bytes, "evil.tar", LabelType::hard, labels);
                        labels.file.clear();
                    } catch (const engine::Error&) {
                    }
                });
            }
            for (std::thread& thread : threads) thread.join();
            PictureLabels labels;
            parse_fkd(bytes, "evil.tar", LabelType::hard, labels);
        });
        CHECK((cost.error.empty() || cost.error.find("evil.tar") != std::string::npos));
    };
    const auto labels = [](int64_t crops, int64_t stride, size_t stored, bool deflate) {
        const Bytes pickle = pickled_tensors({{"FloatStorage", "0", {crops, 4}, {4 * stride, stride}},
                                              {"BoolStorage", "0", {crops}, {stride}},
                                              {"FloatStorage", "0", {crops}, {stride}}});
        const Bytes storage(stored);
        return deflate ? deflated_zip({{{"a/data.pkl"}, pickle}, {{"a/data/0"}, storage}})
                       : write_zip({{"a/data.pkl", pickle}, {"a/data/0", storage}});
    };
    check_labels("labels of one number", labels(1 << 28, 0, 4, false));
    check_labels("labels of few numbers", labels(400'000, 0, 1'900'000, false));
    check_labels("labels of shared numbers", labels(118'000, 1, 1'900'000, false));
    check_labels("deflated labels", labels(8 << 20, 1, size_t{128} << 20, true));

    // More zeros than pictures would be.
    const std::string path = scratch / "train-images-idx3-ubyte.gz";
    gzFile out = gzopen(path.c_str(), "wb1");
    const Bytes header{0, 0, 8, 3, 0x01, 0x2C, 0, 0, 0, 0, 0, 4, 0, 0, 0, 4}, zeros(1 << 20);
    gzwrite(out, header.data(), static_cast<unsigned>(header.size()));
    for (int i = 0; i < 300; ++i) gzwrite(out, zeros.data(), static_cast<unsigned>(zeros.size()));
    gzclose(out);
    const Cost cost = check_cost("idx", [&] { read_idx(path, 3); });
    CHECK(cost.error.find(path) != std::string::npos);
}

TEST_CASE("limits: shares of memory are taken in turns", "[data][limits]") {
    constexpr uint64_t kAll = MemoryShare::kAll, kMebibyte = 1 << 20;
    MemoryShare usual, large, other;
    usual.take(8 * kMebibyte, 0, "usual");
    usual.take(24 * kMebibyte, kMebibyte, "usual");
    CHECK(!usual.held());
    CHECK(refuses("absurd", [&] { large.take(kAll + 9 * kMebibyte, 100, "absurd"); }));
    CHECK(!large.held());
    large.take(kAll, 1, "large");
    CHECK(large.held());
    std::atomic<bool> taken{false};
    std::thread thread([&] {
        other.take(kAll, 1, "other");
        taken = true;
        other.release();
    });
    usual.take(8 * kMebibyte, 0, "usual");  // still
    CHECK(!taken);
    large.release();
    thread.join();
    CHECK(taken);
    // A file of 20 MB may ask for more than there is, and gets all of it.
    large.take(2 * kAll, 20'000'000, "photo");
    CHECK(large.held());
    large.release();
    large.take_all();
    CHECK(large.held());
}
