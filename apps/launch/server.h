// server: the thread of rank 0 that knows all processes of a job. It gathers them, passes their texts on,
// and decides whether and why the job failed.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "apps/launch/messages.h"
#include "engine/check.h"

namespace vvtq::apps {

std::string program_version();
/// A text of a message, fit to be printed.
std::string text_of(const Message& message, const char* key);

/// What all processes of a job must have in common, and how long they wait for one another.
struct JobTerms {
    std::string version;  // of the program
    std::string token;    // of this job, where processes found it through a file
    std::string url;      // where they meet, for messages
    int size = 1;
    double timeout = 120;  // seconds

    /// Seconds between two signs of life.
    double interval() const { return std::min(1.0, timeout / 12); }
    /// Seconds without a sign of life after which a process is given up.
    double silence() const { return 0.8 * timeout; }
    /// Seconds without progress after which a process counts as stuck: below `timeout`, because a collective
    /// operation of an innocent process gives up then.
    double patience() const { return 0.9 * timeout; }
};

/// What a thread that waits in poll missed, because the process was stopped (Ctrl-Z) or had no core: seconds
/// since the last call beyond what it meant to wait.
class PauseMeter {
  public:
    explicit PauseMeter(double interval) : usual_(3 * interval), last_(seconds_now()) {}
    double missed();

  private:
    double usual_, last_;
};

/// Starts a thread that leaves all signals to the others.
std::thread start_thread(std::function<void()> work);

class Server {
  public:
    /// `own`: the other end of rank 0's own connection. `listener`: none in a job of one process.
    Server(const JobTerms& terms, Descriptor listener, Descriptor own);
    /// Ends the thread; processes that are still connected will call this one dead.
    ~Server();

    /// Waits until all were told how the job ended, at most some seconds.
    void wait_until_told() const;

  private:
    struct Member {
        explicit Member(Descriptor socket) : connection(std::move(socket)), heard(seconds_now()) {}

        Connection connection;
        double heard;  // when it last sent something
        int rank = -1, pid = 0;
        std::string host;
        bool left = false;
        // its last sign of life
        uint64_t count = 0;
        double progressed = 0;
        bool started = false, patient = false, exchanging = false, waiting = false;
        std::optional<std::string> text;
        std::optional<Message> failure;
        bool answered = false;  // its good-bye

        std::string name() const { return engine::concat("rank ", rank, " (host ", host, ")"); }
        std::string process() const { return engine::concat("process ", pid, " on ", host); }
    };
    using MemberPointer = std::unique_ptr<Member>;

    void run();
    void wait_for_bytes();
    void accept_strangers();
    void read_strangers();
    void hello(MemberPointer stranger, const Message& message);
    void welcome();
    void read_members();
    void handle(Member& member, const Message& message);
    void pass_texts_on();
    void say_good_bye();
    void check();
    void check_progress();
    void lost(const Member& member);
    void end_by(const Member& member, bool by_all);
    std::string absent() const;
    void end_job(const std::string& text, int status);
    void tell_all();
    void send_all(const Message& message);

    const JobTerms terms_;
    Descriptor listener_, wake_;
    std::vector<MemberPointer> members_;  // by rank; null: not there yet
    std::vector<MemberPointer> strangers_;
    const double start_;
    double now_, last_alive_ = 0;
    bool complete_ = false;           // everyone has come
    const Member* failed_ = nullptr;  // the first one that said so
    double failed_at_ = 0;            // when that was
    bool done_ = false;               // all have said good-bye
    Message end_;                     // null until the job failed
    std::atomic<bool> stop_ = false, told_ = false;
    std::thread thread_;
};

}  // namespace vvtq::apps
