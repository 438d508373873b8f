// The program on label sets: two at once, signals, what is on the disk at the end, and broken teachers.
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <thread>

#include "data/fkd_labels.h"
#include "data/label_sink.h"
#include "data/safetensors.h"
#include "tests/command_support.h"
#include "tests/unit/data_labels_support.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace fs = std::filesystem;

namespace {

constexpr const char* kSmall = "--patch-size 7 --embed-dim 16 --depth 1 ";

void check_refused(const Ended& ended, const std::string& name) {
    INFO(ended.err);
    CHECK(ended.status == 2);
    CHECK(std::count(ended.err.begin(), ended.err.end(), '\n') == 1);
    CHECK(ended.err.find(name) != std::string::npos);
}

/// A packed file of so many pictures with one hard label each.
void write_many(const std::string& path, int64_t pictures) {
    PackedLabelWriter writer(path, {LabelType::hard, 0, 1, kClasses, 0, 0, 0});
    PictureLabels labels;
    labels.own_coords = {0, 0, 1, 1};
    labels.own_index = {3};
    labels.own_flips = {0};
    labels.coords = labels.own_coords;
    labels.index = labels.own_index;
    labels.flips = labels.own_flips;
    for (int64_t i = 0; i < pictures; ++i) writer.append(i, "a/" + std::to_string(i), labels);
    writer.finish();
}

/// Waits until `there` holds, a minute at most.
template <typename There>
bool wait_until(There there) {
    for (int i = 0; i < 60000; ++i) {
        if (there()) return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
}

#if defined(__x86_64__)
/// The program's flushes and renames in their order: "fsync", "syncfs", "rename"; empty where it cannot be
/// traced.
std::vector<std::string> traced(const std::string& arguments) {
    std::vector<std::string> words{VVTQ_BINARY}, calls;
    std::istringstream in(arguments);
    for (std::string word; in >> word;) words.push_back(word);
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const pid_t pid = fork();
    if (pid == 0) {
        ::setenv("ASAN_OPTIONS", "detect_leaks=0", 1);  // which does not work in a traced process
        if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(99);
        execv(argv[0], argv.data());
        _exit(98);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    if (WIFEXITED(status)) return {};
    // Threads are not followed: the main one writes.
    ptrace(PTRACE_SETOPTIONS, pid, nullptr, reinterpret_cast<void*>(PTRACE_O_TRACESYSGOOD));
    bool enters = false;
    for (int signal = 0;;) {
        ptrace(PTRACE_SYSCALL, pid, nullptr, reinterpret_cast<void*>(static_cast<intptr_t>(signal)));
        if (waitpid(pid, &status, 0) != pid || WIFEXITED(status) || WIFSIGNALED(status)) break;
        const bool at_call = WSTOPSIG(status) == (SIGTRAP | 0x80);
        signal = at_call || WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
        if (!at_call) continue;
        enters = !enters;
        if (!enters) continue;
        user_regs_struct registers{};
        ptrace(PTRACE_GETREGS, pid, nullptr, &registers);
        switch (registers.orig_rax) {
            case SYS_fsync:
                calls.emplace_back("fsync");
                break;
            case SYS_syncfs:
                calls.emplace_back("syncfs");
                break;
            case SYS_rename:
                calls.emplace_back("rename");
                break;
        }
    }
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
    return calls;
}
#endif

}  // namespace

TEST_CASE("a second softlabel on one label set is refused, and the first one ends as if alone") {
    const Scratch scratch;
    write_idx_dataset(scratch / "data", 200, 16);
    const std::string data = " --threads 1 --dataset fashion-mnist --data " + scratch / "data ";
    REQUIRE(run_vvtq("pretrain --epochs 1 -b 20 --warmup-epochs 0 --model deit_nano_patch4_28 " +
                         std::string(kSmall) + data + "--save_checkpoint_path " + scratch / "fp",
                     scratch.path())
                .status == 0);
    const auto label = [&](const std::string& name) {
        return "softlabel --crops-per-image 6 -b 10 --teacher " + scratch / "fp/checkpoint.safetensors" +
               data + "--softlabel_path " + scratch / name;
    };
    REQUIRE(run_vvtq(label("alone"), scratch.path()).status == 0);
    fs::create_directories(scratch / "second");
    for (const std::string more : {"", " --form tree"}) {
        const std::string name = more.empty() ? "packed" : "tree";
        Running first(label(name) + more, scratch.path());
        REQUIRE(first.wait_for("Label: "));
        first.signal(SIGSTOP);  // in the middle, however slow this machine is
        check_refused(run_vvtq(label(name) + more, scratch / "second"),
                      name + "' is being written by another");
        first.signal(SIGCONT);
        const Ended ended = first.wait();
        INFO(ended.err);
        CHECK(ended.status == 0);
    }
    CHECK(bytes_of(scratch / "packed") == bytes_of(scratch / "alone"));
    CHECK_FALSE(fs::exists(scratch / "packed.partial"));
    for (const char* target : {"/dev/full", "data"}) {
        const std::string path = *target == '/' ? target : scratch / target;
        check_refused(run_vvtq(label("x") + " --softlabel_path " + path, scratch.path()), path);
    }
    CHECK(fs::is_character_file("/dev/full"));

    // A teacher or a start with values that are not finite, or with nothing but zeros, is named.
    const std::string file = scratch / "fp/checkpoint.safetensors";
    const std::string tensor = "blocks.0.mlp.fc1.weight";
    const auto with = [&](float value, bool everywhere) {
        const auto opened = data::SafeTensors::open(file);
        std::vector<data::TensorBytes> tensors;
        data::Bytes changed;
        for (const auto& [name, entry] : opened.entries()) {
            tensors.push_back({name, entry.dtype, entry.shape, opened.bytes(name)});
            if (name != tensor) continue;
            changed.assign(tensors.back().data.begin(), tensors.back().data.end());
            for (size_t i = 0; i < (everywhere ? changed.size() : sizeof value); i += sizeof value) {
                std::memcpy(&changed[i], &value, sizeof value);
            }
            tensors.back().data = changed;
        }
        data::write_safetensors(scratch / "broken.safetensors", tensors, opened.metadata());
    };
    const std::string train = "train --epochs 1 --wbits 2 --abits 2 --warmup-epochs 0 -b 20" + data +
                              "--save_checkpoint_path " + scratch / "q --finetune " +
                              scratch / "broken.safetensors";
    with(NAN, false);
    check_refused(run_vvtq(label("x") + " --teacher " + scratch / "broken.safetensors", scratch.path()),
                  "broken.safetensors': tensor " + tensor + " has values that are not finite");
    check_refused(run_vvtq(train, scratch.path()),
                  "broken.safetensors': tensor " + tensor + " has values that are not finite");
    with(0, true);
    const Ended zero = run_vvtq(train, scratch.path());
    check_refused(zero, "broken.safetensors' the start step of blocks.0.mlp.fc1");
    CHECK_FALSE(fs::exists(scratch / "q/checkpoint.safetensors"));
}

TEST_CASE("packing and unpacking stop at SIGTERM, and the same command does it all") {
    // Thousands of files, which a busy disk would take minutes for.
    const char* memory = "/dev/shm";
    const Scratch scratch(::access(memory, W_OK) == 0 ? memory : fs::temp_directory_path().string());
    constexpr int64_t kMany = 8000;
    write_many(scratch / "many", kMany);
    const std::string unpack =
        "softlabel --unpack " + scratch / "many" + " --softlabel_path " + scratch / "tree";
    const std::string pack = "softlabel --soft_label_type hard --pack " + scratch / "tree" +
                             " --softlabel_path " + scratch / "again";
    {
        Running running(unpack, scratch.path());
        CHECK(wait_until([&] { return fs::exists(scratch / "tree/a/0.tar"); }));
        running.signal(SIGTERM);
        const Ended ended = running.wait();
        INFO(ended.err);
        CHECK(ended.status == 1);
        CHECK(ended.err.find("stopped by SIGTERM after ") != std::string::npos);
        CHECK(ended.err.find(" of 8000 pictures") != std::string::npos);
    }
    CHECK_FALSE(fs::exists(scratch / "tree/a/7999.tar"));
    const Ended whole = run_vvtq(unpack, scratch.path());
    INFO(whole.err);
    REQUIRE(whole.status == 0);
    CHECK(fs::exists(scratch / "tree/a/7999.tar"));
    Running running(pack, scratch.path());
    CHECK(wait_until([&] {
        std::error_code none;
        return fs::exists(scratch / "again.partial") && fs::file_size(scratch / "again.partial", none) > 0;
    }));
    running.signal(SIGTERM);
    const Ended ended = running.wait();
    INFO(ended.err);
    CHECK(ended.status == 1);
    CHECK(ended.err.find("stopped by SIGTERM after ") != std::string::npos);
    CHECK_FALSE(fs::exists(scratch / "again"));
    CHECK_FALSE(fs::exists(scratch / "again.partial"));
}

TEST_CASE("labels are on the disk when the command is done") {
#if defined(__x86_64__)
    const Scratch scratch;
    write_many(scratch / "pack", 5);
    const auto unpacked =
        traced("softlabel --unpack " + scratch / "pack" + " --softlabel_path " + scratch / "tree");
    if (unpacked.empty()) {
        WARN("skipped: processes cannot be traced here");
        return;
    }
    CHECK(std::count(unpacked.begin(), unpacked.end(), "rename") == 6);  // with softlabel.json
    CHECK(unpacked.back() == "syncfs");
    const auto packed = traced("softlabel --soft_label_type hard --pack " + scratch / "tree" +
                               " --softlabel_path " + scratch / "again");
    CHECK(packed == std::vector<std::string>{"fsync", "rename", "fsync"});  // the file, its name
#else
    WARN("skipped: knows the system calls of x86-64 alone");
#endif
}
