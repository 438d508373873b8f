// Jobs whose processes do not fit together, miss one another, or meet what they cannot go on with.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>

#include "tests/jobs_support.h"
#include "tests/model_files.h"
#include "tests/rank_threads.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace fs = std::filesystem;

namespace {

/// Flags of one of two processes that are started by hand.
std::string by_hand(int rank, int port, int timeout = 20) {
    return " --world-size 2 --rank " + std::to_string(rank) +
           " --dist-url tcp://127.0.0.1:" + std::to_string(port) + " --dist-timeout " +
           std::to_string(timeout) + " ";
}

/// A socket that listens at a port, as another program would.
struct Listener {
    int port = free_tcp_port(), socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    Listener() {
        sockaddr_in address = {};
        address.sin_family = AF_INET;
        address.sin_port = htons(static_cast<uint16_t>(port));
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        REQUIRE(::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
        REQUIRE(::listen(socket, 8) == 0);
    }
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;
    ~Listener() { ::close(socket); }
};

}  // namespace

TEST_CASE("jobs: processes with other flags, data or checkpoints refuse to train together", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    write_idx_dataset(jobs.scratch / "other", 49, 17);
    write_idx_dataset(jobs.scratch / "fewer", 48, 16);
    jobs.done(jobs.train("two", "--epochs 2 --max-steps 2"));
    jobs.done(jobs.train("three", "--epochs 2 --max-steps 3"));
    const std::string more = "--epochs 2 ";
    struct Case {
        std::string flags;               // of rank 1
        std::vector<std::string> words;  // of the line
        std::string common;
    };
    for (const Case& c : std::vector<Case>{
             {"--lr 0.01", {"rank 1 (host ", "has --lr 0.01, rank 0 (host ", "has 0.002"}, ""},
             {"--seed 3", {"has --seed 3"}, ""},
             {"--shards 2", {"has --shards 2"}, ""},
             {"--on-nan skip", {"has --on-nan skip"}, ""},
             {"--max-steps 3", {"has --max-steps 3"}, ""},
             {"--data " + jobs.scratch / "other", {"has training images with fingerprint "}, ""},
             {"--data " + jobs.scratch / "fewer", {"has an evaluation set of size 16", "has 17"}, ""},
             {"--embed-dim 24", {"rank 1 (host ", "has a model of embed_dim 24", "has 12"}, ""},
             {"--resume " + jobs.file("three"),
              {"has a start after step 3", "has 2"},
              "--resume " + jobs.file("two")},
         }) {
        INFO(c.flags);
        const int port = free_tcp_port();
        const std::string common = c.flags.starts_with("--resume") ? "" : c.common;
        JobRun first = jobs.start(jobs.train("refused", more + c.common, 6) + by_hand(0, port));
        JobRun second = jobs.start(jobs.train("refused", more + common, 6) + by_hand(1, port) + c.flags);
        for (JobRun* run : {&first, &second}) check_end(run->ends_within(10), 2, c.words);
        CHECK(becomes_free(port));
        CHECK(steps_of(jobs.file("refused")) == 0);
    }
}

TEST_CASE("jobs: a port that is taken, and a process that does not come", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    const Listener other;
    const std::string taken = "127.0.0.1:" + std::to_string(other.port);
    JobRun started = jobs.start(jobs.train("none", "--nproc 2 --dist-timeout 20 --dist-url tcp://" + taken));
    check_end(started.ends_within(5), 1,
              {"vvtq train: error: port " + std::to_string(other.port), "is taken"});
    JobRun first = jobs.start(jobs.train("none") + by_hand(0, other.port));
    check_end(first.ends_within(5), 1, {"vvtq train: error: port " + std::to_string(other.port), "is taken"});

    const int port = free_tcp_port();
    JobRun alone = jobs.start(jobs.train("none") + by_hand(0, port, 2));
    check_end(alone.ends_within(6), 1, {"rank 1 of 2 did not come to tcp://127.0.0.1:", "within 2 s"});
    CHECK(alone.seconds() > 1.5);
    CHECK(becomes_free(port));
    JobRun machine = jobs.start(jobs.train("none", "--nproc 2", 6) + by_hand(1, port, 2));
    const Ended away = machine.ends_within(8);
    check_end(away, 1, {"vvtq train: error: rank ", ") could not reach rank 0 at tcp://127.0.0.1:"});
    CHECK(away.err.find("(host ") == away.err.rfind("(host "));  // the rank is named once
    JobRun lost = jobs.start(jobs.train("none") + by_hand(1, port, 2));
    check_end(lost.ends_within(6), 1, {"rank 1 (host ", "could not reach rank 0 at tcp://127.0.0.1:"});
    CHECK(lost.seconds() > 1.5);
    CHECK_FALSE(fs::exists(jobs.file("none")));
}

TEST_CASE("jobs: a picture that one process cannot read ends all, and the run goes on once it is good",
          "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    const std::string data = jobs.scratch / "folder";
    write_folder_dataset(data, 3, 8);
    const auto train = [&](const std::string& name, const std::string& more = "") {
        return "pretrain --data " + data +
               " --img-size 8 -b 4 --epochs 2 --warmup-epochs 0 --threads 1 -j 1 " +
               "--device cpu --model deit_nano_patch4_28 --depth 1 --embed-dim 8 --save_checkpoint_path " +
               jobs.scratch / name + " " + processes(2, 20) + more;
    };
    jobs.done(train("whole"));
    for (const char* split : {"train", "val"}) {
        for (const int number : {0, 3, 6}) {
            const std::string name = split + std::to_string(number);
            INFO(name);
            const std::string picture = data + "/" + split + "/class1/" + std::to_string(number) + ".bmp";
            const data::Bytes good = bytes_of(picture);
            data::Bytes bad = good;
            std::fill(bad.begin(), bad.begin() + 40, uint8_t{0});
            write_bytes(picture, bad);
            JobRun run = jobs.start(train(name));
            const Ended ended = run.ends_within(10);
            check_end(ended, 2, {"vvtq pretrain: error: rank ", " (host ", picture});
            // What the line says of the checkpoint is true.
            const size_t at = ended.err.find("holds the state after step ");
            const int64_t steps = steps_of(jobs.file(name));
            if (at != std::string::npos) CHECK(std::stoll(ended.err.substr(at + 27)) == steps);
            write_bytes(picture, good);
            jobs.done(train(name, "--resume auto"));
            jobs.same_files("whole", name);
        }
    }
}

TEST_CASE("jobs: a loss that is not finite ends all processes with one line that names the layer", "[jobs]") {
    if (gloo_missing()) return;
    const Jobs jobs;
    jobs.done(jobs.train("one", "--epochs 2 --max-steps 2 --lr 1e-3"));
    for (const int count : {2, 3}) {
        JobRun run = jobs.start(jobs.pretrain("bad", "--epochs 2 --lr 1e30 " + processes(count, 20)));
        check_end(run.ends_within(10), 1,
                  {"vvtq pretrain: error: ", "epoch 0, step ", "is not finite", "blocks."});
        JobRun start =
            jobs.start(jobs.pretrain("inf", "--epochs 2 --lr 1e30 --on-nan skip " + processes(count, 20)));
        check_end(start.ends_within(10), 1, {"vvtq pretrain: error: ", "not finite"});
    }
}
