// `vvtq bench predict`: what it tells of files, times and memory, and what it refuses.
#include <signal.h>

#include <filesystem>

#include "tests/model_files.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace fs = std::filesystem;

using nlohmann::json;

namespace {

struct Bench : Files {
    std::string packed = scratch / "packed.safetensors";

    Bench() { done("export " + q + " " + packed); }
    /// The line of the files, then those of the speeds.
    std::vector<json> lines(const std::string& arguments) const {
        std::vector<json> lines;
        for (const std::string& line : lines_of(done("bench predict " + arguments))) {
            lines.push_back(json::parse(line));
        }
        REQUIRE_FALSE(lines.empty());
        CHECK(lines.front().at("what") == "files");
        return lines;
    }
};

void check_speed(const json& line) {
    INFO(line.dump());
    CHECK(line.at("bench") == "predict");
    CHECK(line.at("what") == "speed");
    const double ms = line.at("ms"), p90 = line.at("p90_ms"), products = line.at("products_ms");
    CHECK(ms > 0);
    CHECK(p90 >= ms);
    CHECK(products > 0);
    CHECK(line.at("products_gops").get<double>() > 0);
    CHECK(line.at("passes").get<int>() >= 1);
    CHECK(std::abs(line.at("img_s").get<double>() * ms / 1e3 - line.at("batch_size").get<double>()) < 1e-6);
    // a process with nothing in it takes a few MiB, this small model less than a GiB
    CHECK(line.at("peak_mib").get<double>() > 2);
    CHECK(line.at("peak_mib").get<double>() < 1024);
}

}  // namespace

TEST_CASE("bench predict times a packed model beside floats, at each number of threads and pictures") {
    const Bench files;
    for (const std::string& file : {files.packed, files.q}) {
        const auto lines = files.lines(file + " --batch-size 1 3 --threads 1 2 1 --turns 2 --precision fp32");
        CHECK(lines[0].at("file_bytes") == fs::file_size(file));
        CHECK(lines[0].at("packed_bytes") == fs::file_size(files.packed));
        CHECK(lines[0].at("float_bytes").get<uintmax_t>() > 2 * fs::file_size(files.packed) / 3);
        REQUIRE(lines.size() == 9);
        for (size_t i = 1; i < lines.size(); ++i) {
            check_speed(lines[i]);
            CHECK(lines[i].at("threads") == (i <= 4 ? 1 : 2));
            CHECK(lines[i].at("batch_size") == ((i - 1) % 4 < 2 ? 1 : 3));
            CHECK(lines[i].at("precision") == "fp32");
            const bool floats = i % 2 == 0;
            CHECK(lines[i].at("wbits") == (floats ? 32 : 3));
            CHECK(lines[i].at("abits") == (floats ? 32 : 4));
            if (floats) CHECK(lines[i].at("speedup") == 1.0);
        }
    }
}

TEST_CASE("bench predict times integer products where the model has them") {
    const Bench files;
    auto lines = files.lines(files.packed + " --batch-size 2 --threads 1 --turns 1");
    REQUIRE(lines.size() == 4);
    for (size_t i = 1; i < lines.size(); ++i) check_speed(lines[i]);
    CHECK(lines[1].at("precision") == "int8");
    CHECK(lines[1].at("wbits") == 3);
    CHECK(lines[2].at("precision") == "fp32");
    CHECK(lines[3].at("wbits") == 32);
    lines = files.lines(files.packed + " --batch-size 2 --threads 1 --turns 1 --precision int8 --no-memory");
    REQUIRE(lines.size() == 3);
    CHECK(lines[1].at("precision") == "int8");
    CHECK_FALSE(lines[1].contains("peak_mib"));
    files.refused("bench predict --precision int8 " + files.fp, {"--precision", "int8", "quantized"});
}

TEST_CASE("bench predict takes a model in floats, and one of random weights") {
    const Bench files;
    const std::string quick = " --batch-size 2 --threads 1 --turns 1 --precision fp32";
    auto lines = files.lines(files.fp + quick);
    REQUIRE(lines.size() == 2);
    CHECK(lines[1].at("wbits") == 32);
    CHECK_FALSE(lines[0].contains("packed_bytes"));
    const auto float_bytes = lines[0].at("float_bytes");
    lines = files.lines(kModel + quick + " --wbits 3 --abits 4 --num_classes 3");
    REQUIRE(lines.size() == 3);
    check_speed(lines[1]);
    CHECK(lines[1].at("wbits") == 3);
    CHECK(lines[0].at("float_bytes") == float_bytes);
    CHECK_FALSE(lines[0].contains("file_bytes"));
    CHECK(lines[0].at("packed_bytes").get<double>() > 0);
    CHECK(files.lines(kModel + quick).size() == 2);
}

TEST_CASE("bench predict refuses what it cannot measure, in one line") {
    const Bench files;
    files.refused("bench predict", {"name a checkpoint", "--wbits"});
    files.refused("bench predict --wbits 4 --abits 4", {"name a checkpoint"});
    files.refused("bench predict " + files.packed + " --threads -1", {"--threads"});
    files.refused("bench predict " + files.packed + " --batch-size 1 0", {"--batch-size"});
    files.refused("bench predict " + files.packed + " --turns 0", {"--turns"});
    files.refused("bench predict " + files.packed + " --precision bf16", {"--precision"});
    files.refused("bench predict " + files.packed + " --wbits 2", {"--wbits", files.packed});
    files.refused("bench predict " + files.packed + " --depth 2", {"--depth", files.packed});
    files.refused("bench predict " + files.scratch / "none.safetensors", {"none.safetensors"});
    const std::string damaged = files.scratch / "damaged.safetensors";
    data::Bytes bytes = bytes_of(files.packed);
    bytes[bytes.size() - 100] ^= 1;
    write_bytes(damaged, bytes);
    files.refused("bench predict " + damaged, {damaged, "checksum"});
    write_bytes(damaged, {bytes.begin(), bytes.end() - 100});
    files.refused("bench predict " + damaged, {damaged, "truncated"});
}

TEST_CASE("a signal ends bench predict with one line") {
    const Scratch scratch;
    Running run(
        "bench predict --wbits 4 --abits 4 --threads 1 --batch-size 1 --turns 90000" + std::string(kModel),
        scratch.path());
    REQUIRE(run.wait_for("packed_bytes"));
    run.signal(SIGINT);
    const Ended ended = run.wait();
    CHECK(ended.status == 1);
    CHECK(ended.err == "vvtq bench predict: stopped by SIGINT\n");
    CHECK(lines_of(ended.out).size() == 1);
}
