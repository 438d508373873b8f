// Jobs of real processes: they meet, exchange texts, and end.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "apps/launch/job.h"
#include "apps/launch/messages.h"
#include "apps/launch/sockets.h"
#include "engine/check.h"
#include "tests/catch.h"
#include "tests/unit/apps_launch_support.h"

using namespace vvtq::apps;
using namespace vvtq::tests;
using vvtq::engine::concat;

namespace {

std::string text_of_rank(int rank, int round) {
    return concat(rank, "/", round, std::string(static_cast<size_t>(rank * 1000), '\0'), "\xff\n");
}

/// 0 where every text of three exchanges is right.
int exchange_texts(Job& job) {
    for (int round = 0; round < 3; ++round) {
        const auto texts = job.exchange(text_of_rank(job.place().rank, round));
        if (texts.size() != static_cast<size_t>(job.place().size)) return 3;
        for (int rank = 0; rank < job.place().size; ++rank) {
            if (texts[static_cast<size_t>(rank)] != text_of_rank(rank, round)) return 4;
        }
    }
    return job.address() == "127.0.0.1" ? 0 : 5;
}

std::vector<Outcome> wait_all(std::vector<Forked>& processes) {
    std::vector<Outcome> outcomes;
    for (Forked& process : processes) outcomes.push_back(process.wait());
    return outcomes;
}

}  // namespace

TEST_CASE("job: processes exchange texts of any bytes", "[launch]") {
    for (const int size : {1, 2, 5}) {
        INFO(size);
        const Outcome outcome = launched(size, [](const Place& place) {
                                    Job job(place, "vvtq train", 4);
                                    return exchange_texts(job);
                                }).wait();
        CHECK(outcome.status == 0);
        CHECK(outcome.err.empty());
    }
}

TEST_CASE("job: processes started by hand in any order exchange texts, and may end at different times",
          "[launch]") {
    const std::string url = free_url();
    std::vector<Forked> processes;
    for (const int rank : {2, 1, 0}) {
        processes.push_back(by_hand(rank, 3, url, 4, [rank](Job& job) {
            const int status = exchange_texts(job);
            job.progress();
            sleep_for(0.5 * rank);
            return status;
        }));
        sleep_for(0.2);
    }
    for (const Outcome& outcome : wait_all(processes)) {
        CHECK(outcome.status == 0);
        CHECK(outcome.err.empty());
    }
    CHECK(by_hand(0, 1, url, 4, exchange_texts).wait().status == 0);
}
