#include "apps/commands/bench_support.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>

#include "engine/check.h"
#include "engine/kernels.h"
#include "engine/random.h"

namespace vvtq::apps {

double quantile(std::vector<double> values, double q) {
    const auto at = static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5);
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at), values.end());
    return values[at];
}

double timed(engine::Runtime& runtime, const std::function<void()>& f) {
    const auto begin = runtime.make_event(), end = runtime.make_event();
    begin->record();
    f();
    end->record();
    return end->since(*begin);
}

std::optional<double> peak_mib(const std::function<void()>& work) {
    std::cout.flush();
    const pid_t parent = ::getpid(), child = ::fork();
    if (child < 0) engine::run_error("no process can be started to measure memory");
    if (child == 0) {
        for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGXCPU}) ::signal(number, SIG_DFL);
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != parent) ::_exit(1);
        try {
            work();
        } catch (const std::exception&) {
            ::_exit(1);  // this process will meet the same error, and tell it
        }
        ::_exit(0);
    }
    int status = 0;
    struct rusage usage {};
    while (::wait4(child, &status, 0, &usage) < 0 && errno == EINTR) {
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return std::nullopt;
    return static_cast<double>(usage.ru_maxrss) / 1024;
}

double copy_bandwidth(engine::Device device) {
    constexpr int64_t kBytes = int64_t{1} << 30;
    const engine::Tensor from = engine::Tensor::full({kBytes / 4}, 1.0, engine::DType::f32, device);
    const engine::Tensor to = from.like();
    std::vector<double> ms;
    for (int i = 0; i < 12; ++i) {
        ms.push_back(timed(engine::runtime(device), [&] { engine::kernels(device).copy(from, to); }));
    }
    return 2.0 * static_cast<double>(kBytes) / quantile(ms, 0.5) * 1e3;
}

engine::Tensor noise(const engine::Shape& shape, engine::DType dtype, engine::Device device,
                     double deviation) {
    constexpr int64_t kBlock = 1 << 18;
    const engine::Tensor y(shape, dtype, device);
    const engine::Tensor flat = y.reshape({y.numel()});
    engine::Random random(7);
    std::vector<double> values(static_cast<size_t>(std::min(kBlock, y.numel())));
    for (double& value : values) value = deviation * random.normal();
    const engine::Tensor block =
        engine::Tensor::from(values, {static_cast<int64_t>(values.size())}, dtype, device);
    for (int64_t begin = 0; begin < y.numel(); begin += kBlock) {
        const int64_t end = std::min(begin + kBlock, y.numel());
        engine::kernels(device).copy(block.slice(0, end - begin), flat.slice(begin, end));
    }
    return y;
}

}  // namespace vvtq::apps
