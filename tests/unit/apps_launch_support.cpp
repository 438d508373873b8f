#include "tests/unit/apps_launch_support.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <iostream>
#include <utility>

#include "apps/launch/sockets.h"
#include "engine/check.h"

namespace vvtq::tests {

using apps::seconds_now;

Forked::Forked(const std::function<int()>& work) : start_(seconds_now()) {
    int ends[2];
    VVTQ_CHECK(::pipe(ends) == 0, "no pipe");
    std::cout.flush();
    std::cerr.flush();
    pid_ = ::fork();
    if (pid_ == 0) {
        ::close(ends[0]);
        ::dup2(ends[1], STDERR_FILENO);
        ::close(ends[1]);
        for (const int number : {SIGINT, SIGTERM, SIGHUP}) std::signal(number, SIG_DFL);
        std::signal(SIGPIPE, SIG_IGN);
        const int status = work();
        std::cerr.flush();
        ::_exit(status);
    }
    ::close(ends[1]);
    err_ = ends[0];
}

Forked::Forked(Forked&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), err_(std::exchange(other.err_, -1)), start_(other.start_) {}

Forked::~Forked() {
    if (pid_ > 0) {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    if (err_ >= 0) ::close(err_);
}

Outcome Forked::wait() {
    Outcome outcome;
    const double limit = seconds_now() + 20;
    for (;;) {  // until nobody holds the other end
        pollfd waiting{err_, POLLIN, 0};
        if (::poll(&waiting, 1, 100) > 0) {
            char bytes[4096];
            const ssize_t count = ::read(err_, bytes, sizeof bytes);
            if (count <= 0) break;
            outcome.err.append(bytes, static_cast<size_t>(count));
        }
        if (seconds_now() > limit) {
            ::kill(pid_, SIGKILL);
            outcome.err += "[killed by the test]";
            break;
        }
    }
    int raw = 0;
    ::waitpid(pid_, &raw, 0);
    pid_ = -1;
    outcome.status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 1000 + WTERMSIG(raw);
    outcome.seconds = seconds_now() - start_;
    return outcome;
}

Forked launched(int count, const std::function<int(const apps::Place&)>& work, const std::string& url) {
    return Forked([=] {
        apps::LaunchFlags flags;
        flags.nproc = count;
        flags.url = url;
        try {
            return apps::run_processes(apps::plan_launch(flags, {}, 0), "vvtq train", work);
        } catch (const engine::Error& error) {
            std::cerr << "vvtq train: error: " << error.what() << std::endl;
            return error.fault() == engine::Fault::input ? 2 : 1;
        }
    });
}

Forked by_hand(int rank, int size, const std::string& url, double timeout,
               const std::function<int(apps::Job&)>& work) {
    return Forked([=] {
        apps::LaunchFlags flags;
        flags.rank = rank;
        flags.world_size = size;
        flags.url = url;
        try {
            apps::Job job(apps::plan_launch(flags, {}, 0).place, "vvtq train", timeout);
            return work(job);
        } catch (const engine::Error& error) {
            std::cerr << "vvtq train: error: " << error.what() << std::endl;
            return error.fault() == engine::Fault::input ? 2 : 1;
        }
    });
}

int free_port() {
    apps::Meeting meeting{"127.0.0.1", 0, ""};
    const auto listener = apps::listen_at(meeting);
    return meeting.port;
}

std::string free_url() { return engine::concat("tcp://127.0.0.1:", free_port()); }

void sleep_for(double seconds) { ::usleep(static_cast<useconds_t>(1e6 * seconds)); }

bool soon(const std::function<bool()>& holds) {
    for (const double limit = seconds_now() + 10; seconds_now() < limit; sleep_for(0.01)) {
        if (holds()) return true;
    }
    return false;
}

bool lives(pid_t pid) { return ::kill(pid, 0) == 0; }

Board::Board() {
    void* memory = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    VVTQ_CHECK(memory != MAP_FAILED, "no memory");
    cells_ = static_cast<volatile int*>(memory);
}

Board::~Board() { ::munmap(const_cast<int*>(cells_), 4096); }

}  // namespace vvtq::tests
