#include "tests/cost.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "engine/check.h"

namespace vvtq::tests {

Cost cost_of(const std::function<void()>& action) {
    std::array<int, 2> pipe{};
    if (::pipe(pipe.data()) != 0) engine::run_error("no pipe");
    const pid_t child = ::fork();
    if (child < 0) engine::run_error("no process");
    if (child == 0) {
        constexpr unsigned kLongest = 120;
        ::alarm(kLongest);
        std::string error;
        try {
            action();
        } catch (const engine::Error& thrown) {
            error = thrown.what();
            if (thrown.fault() != engine::Fault::input) error = "not of the input: " + error;
        }
        const ssize_t written = ::write(pipe[1], error.data(), error.size());
        ::_exit(written == static_cast<ssize_t>(error.size()) ? 0 : 1);
    }
    ::close(pipe[1]);
    Cost cost;
    std::array<char, 4096> buffer{};
    for (ssize_t got = 1; got > 0;) {
        got = ::read(pipe[0], buffer.data(), buffer.size());
        if (got > 0) cost.error.append(buffer.data(), static_cast<size_t>(got));
    }
    ::close(pipe[0]);
    int status = 0;
    struct rusage usage {};
    ::wait4(child, &status, 0, &usage);
    cost.ended = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    const auto seconds = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
    };
    cost.seconds = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    cost.mebibytes = usage.ru_maxrss >> 10;
    return cost;
}

}  // namespace vvtq::tests
