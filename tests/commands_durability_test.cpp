// Runs and what happens to them: disks that are full, folders that go, signals, a second run.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "data/safetensors.h"
#include "tests/catch.h"
#include "tests/command_support.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace fs = std::filesystem;

namespace {

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

struct Place {
    Scratch scratch;
    std::string data = scratch / "data";

    Place() { write_idx_dataset(data, 64, 32); }
    /// A run in the folder `dir`.
    std::string pretrain(const std::string& dir, const std::string& more = "--epochs 2") const {
        return "pretrain" + tiny_flags(data, dir) + "--patch-size 7 --embed-dim 16 --depth 1 " + more + " ";
    }
    Ended run(const std::string& arguments) const { return run_vvtq(arguments, scratch.path()); }
    /// A run in `dir` is refused by one line with these parts before it has trained.
    void refused(const std::string& dir, const std::vector<std::string>& parts) const {
        const Ended ended = run(pretrain(dir));
        INFO(ended.err);
        CHECK(ended.status == 2);
        CHECK_FALSE(contains(ended.out, "Epoch"));
        CHECK(std::count(ended.err.begin(), ended.err.end(), '\n') == 1);
        for (const std::string& part : parts) CHECK(contains(ended.err, part));
    }
};

std::string checkpoint_in(const std::string& dir) { return dir + "/checkpoint.safetensors"; }

bool is_whole(const std::string& path) {
    try {
        data::SafeTensors::open(path);
        return true;
    } catch (const engine::Error&) {
        return false;
    }
}

/// Whether the process has a handler for a signal. That of SIGXCPU is the last that the program installs, and
/// the test program has none.
bool handles(pid_t pid, int signal) {
    std::istringstream status(text_of("/proc/" + std::to_string(pid) + "/status"));
    for (std::string word; status >> word;) {
        if (word != "SigCgt:") continue;
        status >> word;
        return (std::stoull(word, nullptr, 16) >> (signal - 1) & 1) != 0;
    }
    return false;
}

}  // namespace

TEST_CASE("the folder of a run is tried before it trains") {
    const Place p;
    const auto folder = [&](const std::string& name) {
        fs::create_directories(p.scratch / name);
        return p.scratch / name;
    };
    const std::string directory = folder("directory");
    fs::create_directories(checkpoint_in(directory));
    p.refused(directory, {"--save_checkpoint_path", checkpoint_in(directory), "it is a directory"});
    const std::string fifo = folder("fifo");
    REQUIRE(mkfifo((fifo + "/model_best.safetensors").c_str(), 0666) == 0);
    p.refused(fifo, {"--save_checkpoint_path", "model_best.safetensors", "no regular file"});
    write_bytes(p.scratch / "file", {1});
    p.refused(p.scratch / "file", {"--save_checkpoint_path", p.scratch / "file"});

    // A file that may not be replaced, on file systems that know of such.
    const std::string fixed = folder("fixed");
    write_bytes(checkpoint_in(fixed), {1});
    if (run_shell("chattr +i " + checkpoint_in(fixed), p.scratch.path()).status == 0) {
        p.refused(fixed, {"--save_checkpoint_path", checkpoint_in(fixed), "attributes forbid"});
        run_shell("chattr -i " + checkpoint_in(fixed), p.scratch.path());
    } else {
        WARN("not tested: a file that may not be replaced");
    }
}

TEST_CASE("a folder on a disk that is full or read-only is refused before the run trains") {
    const Place p;
    const MemoryDisk disk(p.scratch / "disk", "1m");
    if (!disk.mounted()) return;
    const std::string dir = p.scratch / "disk/run";
    REQUIRE(p.run(p.pretrain(dir)).status == 0);
    const data::Bytes before = bytes_of(checkpoint_in(dir));
    disk.fill(8192);
    p.refused(dir, {"--save_checkpoint_path", checkpoint_in(dir), "No space left", "free some space"});
    disk.fill();
    p.refused(dir, {dir, "No space left"});
    p.refused(p.scratch / "disk/new", {p.scratch / "disk/new"});
    disk.free();
    CHECK(bytes_of(checkpoint_in(dir)) == before);
    MemoryDisk locked(p.scratch / "locked", "1m");
    fs::create_directories(p.scratch / "locked/run");
    locked.make_read_only();
    p.refused(p.scratch / "locked/run", {p.scratch / "locked/run", "Read-only"});
    p.refused(p.scratch / "locked/new", {"--save_checkpoint_path", p.scratch / "locked/new"});
}

TEST_CASE("a checkpoint that cannot be written is told of and tried again, and the run goes on") {
    const Place p;
    const MemoryDisk disk(p.scratch / "disk", "1m");
    if (!disk.mounted()) return;
    const std::string dir = p.scratch / "disk/run", log = " --log " + p.scratch / "log/run.log";
    const std::string flags = p.pretrain(dir, "--epochs 100000 --save-every-steps 2") + log;
    for (const bool freed : {true, false}) {
        INFO("freed " << freed);
        Running running(flags, p.scratch.path());
        REQUIRE(running.wait_for("Epoch: [2]"));
        disk.fill();
        REQUIRE(running.wait_until([&] { return contains(running.err(), "tried again"); }));
        CHECK(is_whole(checkpoint_in(dir)));
        if (freed) disk.free();
        if (freed) REQUIRE(running.wait_for(checkpoint_in(dir) + " is written again"));
        running.signal(SIGTERM);
        const Ended ended = running.wait();
        INFO(ended.err);
        CHECK(ended.status == 1);
        CHECK(contains(ended.err, checkpoint_in(dir) + "' (No space left on device): free some space"));
        CHECK(contains(ended.err, "go on with the same flags and --resume") == freed);
        CHECK(contains(ended.err, "error: epoch ") == !freed);
        CHECK(contains(text_of(p.scratch / "log/run.log"), "=> warning: step "));
        CHECK(contains(text_of(p.scratch / "log/metrics.jsonl"), "\"what\":\"not_saved\""));
        CHECK(is_whole(checkpoint_in(dir)));
    }
}

TEST_CASE("a log that cannot be written is told of once, the run goes on, and its status says so") {
    const Place p;
    const MemoryDisk disk(p.scratch / "disk", "64k");
    if (!disk.mounted()) return;
    const std::string dir = p.scratch / "run", log = p.scratch / "disk/run.log";
    write_bytes(log, {});
    disk.fill();
    const Ended ended = p.run(p.pretrain(dir) + "--log " + log);
    INFO(ended.err);
    CHECK(ended.status == 1);
    CHECK(contains(ended.out, "=> done: "));
    CHECK(contains(ended.err, "cannot write " + log + " (No space left on device)"));
    CHECK(contains(ended.err, "error: the run is done, but lines are missing in "));
    CHECK(std::count(ended.err.begin(), ended.err.end(), '\n') == 3);  // metrics.jsonl is told of, too
    CHECK(is_whole(checkpoint_in(dir)));
    REQUIRE(mkfifo((p.scratch / "fifo").c_str(), 0666) == 0);
    for (const std::string& no_file : {std::string("/dev/full"), p.scratch / "fifo"}) {
        const Ended refused = p.run(p.pretrain(dir) + "--log " + no_file);
        CHECK(refused.status == 2);
        CHECK(contains(refused.err, "--log: cannot write " + no_file + " ("));
    }
    CHECK_FALSE(fs::is_regular_file("/dev/full"));
}

TEST_CASE("output to a full device is told of, and the status is not 0") {
    const Place p;
    for (const std::string command :
         {"--help", "train --help", "--version",
          "bench step --model deit_nano_patch4_28 --depth 1 --batch-size 2 --steps 3 --threads 1"}) {
        INFO(command);
        const Ended ended = run_shell("$VVTQ " + command + " >/dev/full", p.scratch.path());
        CHECK(ended.status == 1);
        CHECK(contains(ended.err, "standard output could not be written"));
        CHECK(run_shell("$VVTQ " + command, p.scratch.path()).status == 0);
    }
    const std::string dir = p.scratch / "run";
    REQUIRE(p.run(p.pretrain(p.scratch / "whole")).status == 0);
    const Ended ended = run_shell("$VVTQ " + p.pretrain(dir) + " >/dev/full", p.scratch.path());
    INFO(ended.err);
    CHECK(ended.status == 1);
    CHECK(contains(ended.err, "cannot write standard output (No space left on device)"));
    CHECK(bytes_of(checkpoint_in(dir)) == bytes_of(checkpoint_in(p.scratch / "whole")));
    const Ended broken =
        run_shell("{ $VVTQ " + p.pretrain(dir) + "; echo $? >" + p.scratch / "status" + "; } | head -n 1",
                  p.scratch.path());
    INFO(broken.err);
    CHECK(text_of(p.scratch / "status") == "1\n");
    CHECK(contains(text_of(dir + "/pretrain.log"), "=> done: "));
}

TEST_CASE("closed standard streams do not become files of the run") {
    const Place p;
    REQUIRE(p.run(p.pretrain(p.scratch / "whole")).status == 0);
    for (const std::string closed : {">&-", "2>&-", "<&- >&- 2>&-"}) {
        INFO(closed);
        const std::string dir = p.scratch / "run";
        fs::remove_all(dir);
        CHECK(run_shell("$VVTQ " + p.pretrain(dir) + closed, p.scratch.path()).status == 0);
        CHECK(bytes_of(checkpoint_in(dir)) == bytes_of(checkpoint_in(p.scratch / "whole")));
        for (const char* file : {"/pretrain.log", "/metrics.jsonl"}) {
            const auto lines = [&](const std::string& folder) {
                const std::string text = text_of(folder + file);
                return std::count(text.begin(), text.end(), '\n');
            };
            CHECK(lines(dir) == lines(p.scratch / "whole"));
        }
    }
}

TEST_CASE("one run at a time has a folder, and finds it without what dead runs left half written") {
    const Place p;
    const std::string dir = p.scratch / "run";
    Running first(p.pretrain(dir, "--epochs 100000"), p.scratch.path());
    REQUIRE(first.wait_for("Epoch: [2]"));
    const Scratch other;
    const Ended second = run_vvtq(p.pretrain(dir) + "--resume auto", other.path());
    INFO(second.err);
    CHECK(second.status == 2);
    CHECK(contains(second.err, "the run folder " + dir + " is being written by another process (" +
                                   std::to_string(first.pid()) + ")"));
    first.signal(SIGKILL);
    first.wait();
    const std::string left = checkpoint_in(dir) + ".4711.0.tmp", others = dir + "/notes.4711.0.tmp";
    write_bytes(left, {1});
    write_bytes(others, {1});
    CHECK(p.run(p.pretrain(dir)).status == 0);
    CHECK_FALSE(fs::exists(left));
    CHECK(fs::exists(others));
}

TEST_CASE("a folder that is deleted during the run is made again") {
    const Place p;
    const std::string dir = p.scratch / "run";
    Running running(p.pretrain(dir, "--epochs 100000"), p.scratch.path());
    REQUIRE(running.wait_for("Epoch: [2]"));
    fs::rename(dir, p.scratch / "away");
    REQUIRE(running.wait_for("the folder " + dir + " had gone and is made again"));
    REQUIRE(fs::remove(dir + "/pretrain.log"));  // the log alone, too
    REQUIRE(fs::remove(dir + "/metrics.jsonl"));
    REQUIRE(running.wait_until([&] { return contains(text_of(dir + "/pretrain.log"), "Epoch: "); }));
    running.signal(SIGINT);
    CHECK(running.wait().status == 1);
    CHECK(is_whole(checkpoint_in(dir)));
    CHECK(fs::exists(dir + "/metrics.jsonl"));
}

TEST_CASE("a checkpoint that is a link stays one, and no device is replaced") {
    const Place p;
    const std::string dir = p.scratch / "run";
    fs::create_directories(dir);
    fs::create_directories(p.scratch / "elsewhere");
    fs::create_symlink("../elsewhere/state", checkpoint_in(dir));
    REQUIRE(p.run(p.pretrain(dir)).status == 0);
    CHECK(fs::is_symlink(checkpoint_in(dir)));
    CHECK(is_whole(p.scratch / "elsewhere/state"));
    REQUIRE(p.run(p.pretrain(dir, "--epochs 3 --keep 2") + "--resume auto").status == 0);
    CHECK(fs::is_symlink(checkpoint_in(dir)));
    CHECK(bytes_of(dir + "/checkpoint-0000012.safetensors") == bytes_of(p.scratch / "elsewhere/state"));
    const std::string other = p.scratch / "other";
    fs::create_directories(other);
    fs::create_symlink("/dev/full", checkpoint_in(other));
    p.refused(other, {"--save_checkpoint_path", "/dev/full", "no regular file"});
    CHECK(fs::is_character_file("/dev/full"));
}

TEST_CASE("SIGHUP and SIGXCPU save and stop, and nohup is respected") {
    const Place p;
    for (const auto& [number, name] : {std::pair{SIGHUP, "SIGHUP"}, {SIGXCPU, "SIGXCPU"}}) {
        const std::string dir = p.scratch / name;
        Running running(p.pretrain(dir, "--epochs 100000"), p.scratch.path());
        REQUIRE(running.wait_for("Epoch: [2]"));
        running.signal(number);
        const Ended ended = running.wait();
        INFO(ended.err);
        CHECK(ended.status == 1);
        CHECK(contains(ended.err, std::string("stopped by ") + name + " after step "));
        CHECK(contains(ended.err, "--resume " + checkpoint_in(dir)));
        CHECK(is_whole(checkpoint_in(dir)));
    }
    const auto before = ::signal(SIGHUP, SIG_IGN);
    Running running(p.pretrain(p.scratch / "nohup", "--epochs 100000"), p.scratch.path());
    ::signal(SIGHUP, before);
    REQUIRE(running.wait_for("Epoch: [2]"));
    running.signal(SIGHUP);
    REQUIRE(running.wait_for("Epoch: [30]"));
    running.signal(SIGTERM);
    CHECK(contains(running.wait().err, "stopped by SIGTERM"));
}

TEST_CASE("the first signal ends what has nothing to lose, the second one everything, at once") {
    const Place p;
    const std::string big =
        " --model deit_small_patch16_224 -b 16 --warmup-epochs 0 --threads 1 -j 1 "
        "--dataset fashion-mnist --data " +
        p.data + " --save_checkpoint_path ";
    // The start steps of so many weights take a while.
    Running start("train --wbits 2 --abits 2" + big + p.scratch / "start", p.scratch.path());
    REQUIRE(start.wait_until([&] { return handles(start.pid(), SIGXCPU); }));
    start.signal(SIGTERM);
    const Ended ended = start.wait();
    CHECK(ended.status == 1);
    CHECK(ended.err == "vvtq train: stopped by SIGTERM\n");
    Running loader("bench loader --dataset fashion-mnist --seconds 100 --data " + p.data, p.scratch.path());
    REQUIRE(loader.wait_until([&] { return handles(loader.pid(), SIGXCPU); }));
    loader.signal(SIGINT);
    CHECK(loader.wait().err == "vvtq bench loader: stopped by SIGINT\n");
    Running step("pretrain" + big + p.scratch / "step", p.scratch.path());  // of many seconds
    REQUIRE(step.wait_until([&] { return contains(text_of(p.scratch / "step/metrics.jsonl"), "start"); }));
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    step.signal(SIGTERM);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    step.signal(SIGTERM);
    CHECK(step.wait().status == 1000 + SIGTERM);
}

TEST_CASE("a picture that cannot be read in the middle of a run: it saves before it stops") {
    const Scratch scratch;
    write_folder_dataset(scratch / "data", 4, 8);
    const auto train = [&](const std::string& dir, const std::string& more = "") {
        return run_vvtq(
            "pretrain --model deit_nano_patch4_28 --img-size 8 --depth 1 --embed-dim 8 --epochs 2 "
            "--warmup-epochs 0 -b 2 --threads 1 -j 1 --data " +
                scratch / "data" + " --save_checkpoint_path " + scratch / dir + more,
            scratch.path());
    };
    REQUIRE(train("whole").status == 0);
    for (const std::string split : {"train", "val"}) {
        const std::string picture = scratch / ("data/" + split + "/class2/3.bmp");
        const data::Bytes good = bytes_of(picture);
        data::Bytes bad = good;
        std::fill(bad.begin(), bad.begin() + 40, uint8_t{0});
        write_bytes(picture, bad);
        const Ended ended = train(split);
        INFO(ended.err);
        CHECK(ended.status == 2);
        CHECK(contains(ended.err, picture));
        CHECK(contains(ended.err, checkpoint_in(scratch / split) + " holds the state after step "));
        CHECK(contains(ended.err, "go on from there with --resume"));
        write_bytes(picture, good);
        REQUIRE(train(split, " --resume auto").status == 0);
        CHECK(bytes_of(checkpoint_in(scratch / split)) == bytes_of(checkpoint_in(scratch / "whole")));
    }
}
