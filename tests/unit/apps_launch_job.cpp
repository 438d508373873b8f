// Jobs of real processes: they meet, exchange texts, and end.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "apps/launch/job.h"
#include "apps/launch/meeting_file.h"
#include "apps/launch/messages.h"
#include "apps/launch/server.h"
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

namespace {

constexpr double kTimeout = 3;

std::string name_of(int rank) { return concat("rank ", rank, " (host ", host_name(), ")"); }

void check_line(const Outcome& outcome, const std::string& part, int status = 1) {
    INFO(outcome.err);
    CHECK(outcome.status == status);
    CHECK(outcome.err.starts_with("vvtq train: error: "));
    CHECK(outcome.err.find(part) != std::string::npos);
    CHECK(std::count(outcome.err.begin(), outcome.err.end(), '\n') == 1);
}

int nothing(Job&) { return 0; }

int hang(Job& job) {
    job.progress();
    for (;;) ::pause();
}

/// A connection of the test's own to rank 0, once it listens.
Descriptor connection_to(const std::string& url) {
    std::string problem;
    Descriptor socket;
    REQUIRE(soon([&] {
        socket = connect_to("127.0.0.1", parse_meeting(url, "url").port, 1, problem);
        return socket.get() >= 0;
    }));
    return socket;
}

Message hello(int rank, int size, const std::string& version) {
    return {{"kind", "hello"}, {"version", version},  {"token", ""}, {"rank", rank},
            {"size", size},    {"host", "elsewhere"}, {"pid", 77}};
}

/// What rank 0 answers.
Message answer_to(Connection& connection, const Message& message) {
    connection.send(message);
    std::optional<Message> answer;
    soon([&] {
        connection.flush();
        connection.receive();
        answer = connection.next();
        return answer || connection.closed();
    });
    return answer.value_or(Message());
}

}  // namespace

TEST_CASE("job: missing processes are named", "[launch]") {
    const std::string url = free_url();
    std::vector<Forked> processes;
    for (const int rank : {0, 3}) processes.push_back(by_hand(rank, 7, url, 2, nothing));
    for (const Outcome& outcome : wait_all(processes)) {
        check_line(outcome, concat("ranks 1-2, 4-6 of 7 did not come to ", url, " within 2 s"));
    }
    check_line(by_hand(1, 2, url, 1, nothing).wait(),
               concat(name_of(1), " could not reach rank 0 at ", url, " for 1 s"));
}

TEST_CASE("job: a process that does not fit is refused, and both are named", "[launch]") {
    const auto refused = [](const Message& message, const std::string& line) {
        const std::string url = free_url();
        Forked first = by_hand(0, 3, url, 10, nothing), second = by_hand(1, 3, url, 10, nothing);
        sleep_for(0.5);
        Connection stranger(connection_to(url));
        const Message answer = answer_to(stranger, message);
        CHECK(answer.value("text", "").starts_with(line));
        check_line(first.wait(), line);
        check_line(second.wait(), line);
    };
    refused(hello(2, 3, "0.0.1"),
            "rank 2 (host elsewhere) runs vvtq 0.0.1, but " + name_of(0) + " runs vvtq ");
    refused(
        hello(2, 4, program_version()),
        "rank 2 (host elsewhere) was started for a job of 4 processes, but " + name_of(0) + " for one of 3");
    refused(hello(1, 3, program_version()), "rank 1 was started twice: process ");
    refused(hello(0, 3, program_version()), "rank 0 was started twice: process ");
    refused(hello(7, 3, program_version()), "rank 7 (host elsewhere): this job has the ranks 0 to 2");
}

TEST_CASE("job: strangers do not disturb a running job", "[launch]") {
    const std::string url = free_url();
    Forked first = by_hand(0, 2, url, 4, [](Job& job) {
        sleep_for(2);
        return exchange_texts(job);
    });
    std::vector<Descriptor> silent;
    for (int i = 0; i < 20; ++i) silent.push_back(connection_to(url));
    for (const std::string& text :
         {std::string("GET / HTTP/1.1\r\n\r\n"), std::string("vvtqJOB1\xff\xff\xff\xff"),
          std::string("vvtqJOB1\3\0\0\0abc", 15), std::string("vvtqJOB1\1\0\0\0\xa0", 13),
          std::string(100000, '\x81')}) {
        const Descriptor socket = connection_to(url);
        CHECK(::send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL) > 0);
        char byte;
        CHECK(soon([&] { return ::recv(socket.get(), &byte, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET; }));
    }
    {
        Connection liar(connection_to(url));
        CHECK(answer_to(liar, {{"kind", "hello"}, {"version", 1}, {"token", ""}}).is_null());
        Connection other(connection_to(url));
        Message wrong = hello(1, 2, program_version());
        wrong["token"] = "another job";
        CHECK(answer_to(other, wrong).is_null());
    }
    Forked second = by_hand(1, 2, url, 4, exchange_texts);
    sleep_for(0.5);
    Connection late(connection_to(url));
    CHECK(answer_to(late, hello(1, 2, program_version()))
              .value("text", "")
              .starts_with("rank 1 was started twice"));
    for (Forked* process : {&first, &second}) {
        const Outcome outcome = process->wait();
        CHECK(outcome.status == 0);
        CHECK(outcome.err.empty());
    }
}

TEST_CASE("job: a port that is taken is named, and one that was used is free at once", "[launch]") {
    Meeting meeting{"127.0.0.1", 0, ""};
    Descriptor taken = listen_at(meeting);
    const std::string line = concat("port ", meeting.port, " of this machine (", host_name(), ") is taken");
    check_line(by_hand(0, 2, meeting.url(), 2, nothing).wait(), line);
    check_line(launched(
                   2, [](const Place&) { return 0; }, meeting.url())
                   .wait(),
               line);
    taken.reset();
    for (int i = 0; i < 3; ++i) {
        const auto work = [](const Place& place) {
            Job job(place, "vvtq train", kTimeout);
            return exchange_texts(job);
        };
        CHECK(launched(2, work, meeting.url()).wait().status == 0);
    }
}

TEST_CASE("job: processes meet through a file, whatever an earlier job left there", "[launch]") {
    const std::string path =
        (std::filesystem::temp_directory_path() / concat("vvtq-job-", ::getpid())).string();
    const auto run = [&](bool rank_0_first) {
        std::vector<Forked> processes;
        for (const int rank : {rank_0_first ? 0 : 1, rank_0_first ? 1 : 0}) {
            processes.push_back(by_hand(rank, 2, "file://" + path, 8, [](Job& job) {
                const auto texts = job.exchange("x");
                return texts.size() == 2 && !job.address().empty() ? 0 : 3;
            }));
            sleep_for(0.3);
        }
        for (const Outcome& outcome : wait_all(processes)) {
            INFO(outcome.err);
            CHECK(outcome.status == 0);
        }
        CHECK(!std::filesystem::exists(path));
    };
    run(true);
    run(false);
    Meeting other{"127.0.0.1", 0, ""};
    const Descriptor listener = listen_at(other);  // of another program, at the port of the earlier job
    write_meeting_file(path, {"old", other.port, {"127.0.0.1"}});
    run(false);
    std::ofstream(path) << "my notes";
    check_line(by_hand(0, 2, "file://" + path, 2, nothing).wait(), path, 2);
    CHECK(std::filesystem::file_size(path) == 8);
    std::filesystem::remove(path);
    const auto work = [](const Place& place) {
        Job job(place, "vvtq train", kTimeout);
        return exchange_texts(job);
    };
    CHECK(launched(2, work, "file://" + path).wait().status == 0);
    CHECK(!std::filesystem::exists(path));
}

TEST_CASE("job: a process that dies is named by all others, before the errors that this causes", "[launch]") {
    for (const int victim : {0, 1}) {
        const std::string url = free_url();
        const Board board;
        std::vector<Forked> processes;
        for (const int rank : {0, 1, 2}) {
            processes.push_back(by_hand(rank, 3, url, 4, [&board, rank, victim](Job& job) -> int {
                job.exchange("");
                if (rank == 2) {
                    board[0] = 1;
                    job.fail("the collective operation failed", 1);
                }
                while (rank == victim && board[0] == 0) sleep_for(0.01);
                if (rank == victim) ::raise(SIGKILL);
                return hang(job);
            }));
        }
        for (int rank = 0; rank < 3; ++rank) {
            const Outcome outcome = processes[static_cast<size_t>(rank)].wait();
            if (rank == victim) {
                CHECK(outcome.status == 1000 + SIGKILL);
            } else {
                check_line(outcome, name_of(victim) + ": connection lost: the process died or its machine");
            }
        }
    }
}

TEST_CASE("job: fail reaches all, also on other machines", "[launch]") {
    const std::string url = free_url();
    std::vector<Forked> processes;
    for (const int rank : {0, 1, 2}) {
        processes.push_back(by_hand(rank, 3, url, 4, [rank](Job& job) -> int {
            if (rank == 1) job.fail("the loss is not finite", 2);
            return hang(job);
        }));
    }
    for (const Outcome& outcome : wait_all(processes))
        check_line(outcome, name_of(1) + ": the loss is not finite", 2);
}

TEST_CASE("job: a process that left cannot be waited for", "[launch]") {
    const std::string url = free_url();
    std::vector<Forked> processes;
    for (const int rank : {0, 1}) {
        processes.push_back(by_hand(rank, 2, url, 4, [rank](Job& job) {
            if (rank == 0) job.exchange("");
            return 0;
        }));
    }
    const auto outcomes = wait_all(processes);
    check_line(outcomes[0], name_of(1) + ": ended while the others went on");
    CHECK(outcomes[1].status == 0);
}

TEST_CASE("job: a pause of the whole job is no failure", "[launch]") {
    const std::string url = free_url();
    const Board board;
    std::vector<Forked> processes;
    for (const int rank : {0, 1}) {
        processes.push_back(by_hand(rank, 2, url, 2, [&board, rank](Job& job) {
            job.progress();
            board[rank] = 1;
            job.exchange("");
            while (board[2] == 0) sleep_for(0.01);
            job.progress();
            job.exchange("");
            return 0;
        }));
    }
    REQUIRE(soon([&] { return board[0] == 1 && board[1] == 1; }));
    for (const Forked& process : processes) ::kill(process.pid(), SIGSTOP);
    sleep_for(2.5);
    for (const Forked& process : processes) ::kill(process.pid(), SIGCONT);
    sleep_for(0.3);
    board[2] = 1;
    for (const Outcome& outcome : wait_all(processes)) {
        CHECK(outcome.err.empty());
        CHECK(outcome.status == 0);
    }
}
