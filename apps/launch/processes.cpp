#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <optional>
#include <vector>

#include "apps/launch/launch.h"
#include "apps/launch/report.h"
#include "apps/launch/sockets.h"
#include "data/bytes.h"
#include "engine/check.h"
#include "engine/device.h"

namespace vvtq::apps {
namespace {

using engine::concat;
using engine::run_error;

constexpr int kForwarded[] = {SIGINT, SIGTERM, SIGHUP, SIGXCPU};
constexpr double kGrace = 3;        // seconds for the others to end where one failed
constexpr double kOneSignal = 0.3;  // seconds in which a signal that comes twice was sent once

struct Child {
    pid_t pid = -1;  // -1: it has ended
    Place place;
    std::optional<Report> report;
    int ended_by = 0;  // a signal that this process did not send
    bool killed = false;
    int status = 0;
};

struct Pipe {
    Descriptor read, write;
    Pipe() {
        int ends[2];
        if (::pipe2(ends, O_CLOEXEC) != 0) run_error("no pipe: ", std::strerror(errno));
        read = Descriptor(ends[0]);
        write = Descriptor(ends[1]);
    }
};

/// Ends the process by the same signal, so that its starter sees which.
void end_by_signal(int number) {
    std::signal(number, SIG_DFL);
    ::raise(number);
}

void catch_signals() {
    for (const int number : kForwarded) {
        struct sigaction before = {};
        ::sigaction(number, nullptr, &before);
        if (before.sa_handler != SIG_IGN) std::signal(number, end_by_signal);
    }
}

class Starter {
  public:
    Starter(const LaunchPlan& plan, const std::string& command) : command_(command), parent_(::getpid()) {
        Place place = plan.place;
        if (place.rank == 0 && place.size > 1 && place.url.starts_with("tcp:")) {
            Meeting meeting = parse_meeting(place.url, "--dist-url", true);
            listener_ = listen_at(meeting);
            place.url = meeting.url();
        }
        children_.resize(static_cast<size_t>(plan.start));
        for (int i = 0; i < plan.start; ++i) {
            Place& own = children_[static_cast<size_t>(i)].place = place;
            own.rank += i;
            own.local_rank = i;
            if (own.rank == 0) own.listener = listener_.get();
        }
        sigset_t set;
        sigemptyset(&set);
        for (const int number : kForwarded) sigaddset(&set, number);
        sigaddset(&set, SIGCHLD);
        ::sigprocmask(SIG_BLOCK, &set, &mask_);
        signals_ = Descriptor(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    }
    ~Starter() {
        kill_all();
        for (Child& child : children_) {
            if (child.pid > 0) ::waitpid(child.pid, nullptr, 0);
        }
        ::sigprocmask(SIG_SETMASK, &mask_, nullptr);
    }

    int run(const std::function<int(const Place&)>& work) {
        for (Child& child : children_) start(child, work);
        reports_.write.reset();
        listener_.reset();
        while (living() > 0) {
            pollfd waiting[] = {{signals_.get(), POLLIN, 0}, {reports_.read.get(), POLLIN, 0}};
            ::poll(waiting, bytes_end_ ? 1 : 2, 100);
            read_signals();
            read_reports();
            reap();
            forward();
            if (limit_ > 0 && seconds_now() > limit_) kill_all();
        }
        read_reports();
        return verdict();
    }

  private:
    void start(Child& child, const std::function<int(const Place&)>& work) {
        std::cout.flush();
        std::fflush(nullptr);
        const pid_t pid = ::fork();
        if (pid < 0) run_error("no process can be started: ", std::strerror(errno));
        if (pid > 0) {
            child.pid = pid;
            return;
        }
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != parent_) ::_exit(1);
        reports_.read.reset();
        signals_.reset();
        if (child.place.rank != 0) listener_.reset();
        catch_signals();
        ::sigprocmask(SIG_SETMASK, &mask_, nullptr);
        const Descriptor null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        ::dup2(null.get(), STDIN_FILENO);
        report_to(reports_.write.get());
        const Report report = report_of(child.place, work);
        std::cerr.flush();
        std::fflush(nullptr);
        apps::report(command_, report);
        ::_exit(report.status);
    }

    int living() const {
        return static_cast<int>(std::count_if(children_.begin(), children_.end(),
                                              [](const Child& child) { return child.pid > 0; }));
    }

    void kill_all() {
        for (Child& child : children_) {
            if (child.pid > 0) ::kill(child.pid, SIGKILL), child.killed = true;
        }
    }

    void fail_soon() {
        if (limit_ == 0) limit_ = seconds_now() + kGrace;
    }

    void read_reports() {
        char bytes[4096];
        for (;;) {
            pollfd waiting{reports_.read.get(), POLLIN, 0};
            if (bytes_end_ || ::poll(&waiting, 1, 0) <= 0) break;
            const ssize_t count = ::read(reports_.read.get(), bytes, sizeof bytes);
            if (count <= 0) bytes_end_ = true;
            if (count > 0) bytes_.append(bytes, static_cast<size_t>(count));
        }
        for (Report report; take_report(bytes_, report);) {
            const int index = report.rank - children_.front().place.rank;
            children_.at(static_cast<size_t>(index)).report = report;
            if (report.ended) continue;
            if (first_ < 0) first_ = index;
            fail_soon();
        }
    }

    void reap() {
        for (Child& child : children_) {
            int raw = 0;
            if (child.pid <= 0 || ::waitpid(child.pid, &raw, WNOHANG) != child.pid) continue;
            child.pid = -1;
            child.status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 1;
            if (WIFSIGNALED(raw) && !child.killed) child.ended_by = WTERMSIG(raw);
            if (child.ended_by != 0 && first_signalled_ == nullptr) first_signalled_ = &child;
            read_reports();  // what it wrote is in the pipe
            if (!child.report && (child.ended_by != 0 || child.status != 0)) fail_soon();
        }
    }

    void read_signals() {
        signalfd_siginfo info = {};
        while (::read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
            const int number = static_cast<int>(info.ssi_signo);
            if (number == SIGCHLD) continue;
            const double now = seconds_now();
            if (signal_ == 0) {
                signal_ = number;
                forward_at_ = now + kOneSignal;
            } else if (now > forward_at_ && number != SIGXCPU) {
                killed_by_user_ = true;
                kill_all();
            }
        }
    }

    /// A terminal, or SLURM, sends a signal to all processes: then the children have it already, and a second
    /// one would kill them. Until it takes the first signal a process catches it.
    void forward() {
        if (signal_ == 0 || forwarded_ || seconds_now() < forward_at_) return;
        forwarded_ = true;
        for (const Child& child : children_) {
            if (child.pid > 0 && catches(child.pid, signal_)) ::kill(child.pid, signal_);
        }
    }

    static bool catches(pid_t pid, int number) {
        std::ifstream file(concat("/proc/", pid, "/status"));
        for (std::string key; file >> key;) {
            if (key != "SigCgt:") continue;
            unsigned long long set = 0;
            file >> std::hex >> set;
            return (set >> (number - 1) & 1) != 0;
        }
        return true;
    }

    std::string name(const Child& child) const {
        return concat("rank ", child.place.rank, " (host ", host_name(), ")");
    }

    int print(const std::string& text, int status) const {
        const std::string line = command_ + ": " + text + "\n";
        data::write_all(STDERR_FILENO, line.data(), line.size());
        return status;
    }

    /// Why the job failed: what this process saw itself says more than what the others noticed of it.
    int verdict() const {
        const Child* signalled = first_signalled_;
        if (killed_by_user_ || (signalled != nullptr && signalled->ended_by == signal_)) {
            return print(concat("stopped by SIG", ::sigabbrev_np(signal_)), 1);
        }
        if (signalled != nullptr) {
            const char* of = ::sigabbrev_np(signalled->ended_by);
            return print(concat("error: ", name(*signalled), ": ended by ", of != nullptr ? "SIG" : "signal ",
                                of != nullptr ? of : std::to_string(signalled->ended_by)),
                         1);
        }
        if (first_ >= 0) return first_report();
        int status = 0;
        for (const Child& child : children_) {
            if (!child.report && child.status != 0) {
                return print(concat("error: ", name(child), ": ended with status ", child.status), 1);
            }
            status = std::max(status, child.status);
        }
        return status;
    }

    int first_report() const {
        const Child& first = children_[static_cast<size_t>(first_)];
        const Report& report = *first.report;
        const bool by_all = std::all_of(children_.begin(), children_.end(), [&](const Child& child) {
            return child.report && child.report->text == report.text;
        });
        const bool named = report.named || by_all || report.text.starts_with(name(first));
        return print(concat("error: ", named ? "" : name(first) + ": ", report.text), report.status);
    }

    const std::string command_;
    const pid_t parent_;
    Descriptor listener_, signals_;
    Pipe reports_;
    sigset_t mask_ = {};
    std::vector<Child> children_;
    std::string bytes_;  // of reports
    bool bytes_end_ = false;
    int first_ = -1;    // the child whose report of a failure came first
    double limit_ = 0;  // when those that live are killed
    int signal_ = 0;    // the first one that this process got
    double forward_at_ = 0;
    bool forwarded_ = false, killed_by_user_ = false;
    const Child* first_signalled_ = nullptr;
};

}  // namespace

int count_gpus() {
    Pipe pipe;
    const pid_t pid = ::fork();
    if (pid < 0) run_error("no process can be started: ", std::strerror(errno));
    if (pid == 0) {
        const int count = engine::gpu_count();
        data::write_all(pipe.write.get(), &count, sizeof count);
        ::_exit(0);
    }
    pipe.write.reset();
    int count = 0;
    if (::read(pipe.read.get(), &count, sizeof count) != static_cast<ssize_t>(sizeof count)) count = 0;
    ::waitpid(pid, nullptr, 0);
    return count;
}

int run_processes(const LaunchPlan& plan, const std::string& command,
                  const std::function<int(const Place&)>& work) {
    VVTQ_CHECK(plan.start > 0, "no processes to start");
    return Starter(plan, command).run(work);
}

}  // namespace vvtq::apps
