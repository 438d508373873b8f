// job_state: what a Job holds, for its two files: joining.cpp, how it meets the others, and job.cpp.
#pragma once

#include <sys/eventfd.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "apps/launch/job.h"
#include "apps/launch/server.h"

namespace vvtq::apps {

/// The connection belongs to the monitor thread, which sends a sign of life all the time and ends the process
/// where the job failed: the main thread may hang in a collective operation.
struct Job::State {
    State(const Place& where, const std::string& name, double timeout)
        : place(where), command(name), terms{program_version(), "", place.url, place.size, timeout} {}
    ~State();

    void join_job();
    void listen();
    void connect();
    std::unique_ptr<Connection> try_hosts(const std::vector<std::string>& hosts, int port, double limit,
                                          std::string& problem);
    bool greet(Connection& to, double limit, std::string& problem);
    void monitor();
    void handle(const Message& message);
    Message sign_of_life();
    void say(const Message& message);
    void send_outbox();
    void failed(const std::string& text, int status, bool tell_server);

    const Place place;
    const std::string command;
    JobTerms terms;
    Meeting meeting;
    std::string host0 = host_name();  // of rank 0
    std::string address;
    const int exceptions = std::uncaught_exceptions();
    std::unique_ptr<Server> server;          // of rank 0
    std::unique_ptr<Connection> connection;  // to it
    Descriptor wake{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};

    std::mutex mutex;  // guards what follows
    std::condition_variable changed;
    std::deque<Message> outbox;
    std::optional<std::vector<std::string>> texts;
    std::optional<Message> end;  // why the job failed
    bool welcomed = false, ready = false, left = false, stop = false;
    uint64_t count = 0;
    double progressed = 0;
    bool started = false, patient = false, exchanging = false, waiting = false;

    std::thread thread;
};

}  // namespace vvtq::apps
