// What happens to a job where something fails: everyone ends in time, with one line that names who failed.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "apps/launch/sockets.h"
#include "apps/training/interrupt.h"
#include "engine/check.h"
#include "tests/catch.h"
#include "tests/unit/apps_launch_support.h"

using namespace vvtq::apps;
using namespace vvtq::tests;
using vvtq::engine::concat;

namespace {

constexpr double kTimeout = 3;

/// Trains, so to speak, for at most 15 s.
int work_on(Job& job) {
    for (const double limit = seconds_now() + 15; seconds_now() < limit; sleep_for(0.02)) job.progress();
    return 0;
}

/// Hangs as a collective operation does where another process does not come.
int hang() {
    for (;;) ::pause();
}

std::string of_rank(int rank) {
    return concat("vvtq train: error: rank ", rank, " (host ", host_name(), "): ");
}

void check_line(const Outcome& outcome, const std::string& line, int status = 1) {
    INFO(outcome.err);
    CHECK(outcome.status == status);
    CHECK(outcome.err.starts_with(line));
    CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
    CHECK(outcome.seconds < 12);
}

/// A job of `count` started processes; each writes its id on the board, meets the others, and goes on.
struct Launched {
    explicit Launched(int number, const std::function<int(Job&)>& work)
        : count(number), process(launched(count, [=, this](const Place& place) {
              Job job(place, "vvtq train", kTimeout);
              job.progress();
              pids[place.rank] = ::getpid();
              return work(job);
          })) {
        REQUIRE(soon([&] {
            for (int rank = 0; rank < count; ++rank) {
                if (pids[rank] == 0) return false;
            }
            return true;
        }));
    }
    bool all_gone() const {
        for (int rank = 0; rank < count; ++rank) {
            if (lives(pids[rank])) return false;
        }
        return true;
    }

    Board pids;
    int count;
    Forked process;
};

}  // namespace

TEST_CASE("launch: a killed process ends the job", "[launch]") {
    for (const int victim : {0, 1}) {
        Launched job(3, work_on);
        ::kill(job.pids[victim], SIGKILL);
        const Outcome outcome = job.process.wait();
        check_line(outcome, of_rank(victim) + "ended by SIGKILL\n");
        CHECK(job.all_gone());
    }
}

TEST_CASE("launch: a stopped process ends the job, and is killed", "[launch]") {
    Launched first(2, work_on), second(2, work_on);
    ::kill(first.pids[0], SIGSTOP);
    ::kill(second.pids[1], SIGSTOP);
    check_line(first.process.wait(), of_rank(0) + "has not answered for ");
    check_line(second.process.wait(), of_rank(1) + "has not answered for ");
    CHECK(first.all_gone());
    CHECK(second.all_gone());
}

TEST_CASE("launch: no process outlives its starter", "[launch]") {
    Launched job(2, [](Job&) { return hang(); });
    ::kill(job.process.pid(), SIGKILL);
    CHECK(job.process.wait().status == 1000 + SIGKILL);
    CHECK(soon([&] { return job.all_gone(); }));
}

TEST_CASE("launch: a process that is stuck ends the job", "[launch]") {
    Launched job(3, [](Job& own) {
        for (int batch = 0; batch < 5; ++batch) own.progress();
        if (own.place().rank != 1) own.progress();  // and waits for rank 1
        return hang();
    });
    check_line(job.process.wait(), of_rank(1) + "has made no progress for 3 s\n");
}

TEST_CASE("launch: a process that waits for others is not the one that is stuck", "[launch]") {
    Launched job(3, [](Job& own) {
        own.progress();
        if (own.place().rank != 2) own.waiting(true);
        return hang();
    });
    check_line(job.process.wait(), of_rank(2) + "has made no progress for 3 s\n");
}

TEST_CASE("launch: waiting in an exchange, or for a long save, is not being stuck", "[launch]") {
    Launched job(3, [](Job& own) {
        own.progress(own.place().rank == 0);
        if (own.place().rank == 0) sleep_for(kTimeout + 1);
        own.exchange("");
        own.progress();
        return 0;
    });
    const Outcome outcome = job.process.wait();
    CHECK(outcome.err.empty());
    CHECK(outcome.status == 0);
}

TEST_CASE("launch: a process that fails says why, once, with its status", "[launch]") {
    for (const int victim : {0, 1}) {
        Launched job(3, [=](Job& own) {
            if (own.place().rank == victim) own.fail("the data are broken", 2);
            return work_on(own);
        });
        check_line(job.process.wait(), of_rank(victim) + "the data are broken\n", 2);
    }
}

TEST_CASE("launch: what fails in all processes is said once, of no rank", "[launch]") {
    Launched job(3, [=](Job& own) {
        own.fail("there is no file", 2);
        return 0;
    });
    check_line(job.process.wait(), "vvtq train: error: there is no file\n", 2);
    const auto all =
        launched(3, [](const Place&) -> int { vvtq::engine::input_error("no such flag"); }).wait();
    check_line(all, "vvtq train: error: no such flag\n", 2);
    Forked process = launched(2, [](const Place& place) -> int {
        if (place.rank == 1) vvtq::engine::run_error("no space");
        Job own(place, "vvtq train", kTimeout);
        return 0;
    });
    check_line(process.wait(), of_rank(1) + "no space\n", 1);
}

TEST_CASE("launch: a process that ends without a word is named", "[launch]") {
    Launched job(2, [](Job& own) -> int {
        if (own.place().rank == 1) ::_exit(7);
        return work_on(own);
    });
    check_line(job.process.wait(), of_rank(1));
}

TEST_CASE("launch: signals are passed on once", "[launch]") {
    const auto interruptible = [](Job& job) {
        install_interrupt_handler();
        job.exchange("");
        const double limit = seconds_now() + 10;
        while (!interrupted() && seconds_now() < limit) {
            job.progress();
            sleep_for(0.02);
        }
        job.exchange("");
        sleep_for(0.6);  // saves
        return interrupted() ? 5 : 6;
    };
    SECTION("sent to the starter") {
        Launched job(2, interruptible);
        sleep_for(0.3);
        ::kill(job.process.pid(), SIGTERM);
        const Outcome outcome = job.process.wait();
        CHECK(outcome.err.empty());
        CHECK(outcome.status == 5);
    }
    SECTION("sent to all, as a terminal does") {
        Launched job(2, interruptible);
        sleep_for(0.3);
        for (const pid_t pid : {job.process.pid(), pid_t{job.pids[0]}, pid_t{job.pids[1]}})
            ::kill(pid, SIGINT);
        CHECK(job.process.wait().status == 5);
    }
    SECTION("a second one kills") {
        Launched job(2, [](Job&) {
            install_interrupt_handler();
            return hang();
        });
        ::kill(job.process.pid(), SIGINT);
        sleep_for(0.5);
        ::kill(job.process.pid(), SIGINT);
        check_line(job.process.wait(), "vvtq train: stopped by SIGINT\n");
        CHECK(job.all_gone());
    }
    SECTION("before there is anything to lose") {
        Launched job(2, work_on);
        ::kill(job.process.pid(), SIGTERM);
        check_line(job.process.wait(), "vvtq train: stopped by SIGTERM\n");
    }
}
