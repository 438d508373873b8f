// gloo_communicator: sums and copies over the processes of a job by Gloo, over TCP.
#include <netdb.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <map>
#include <regex>
#include <thread>

#include <gloo/allgather.h>
#include <gloo/allreduce.h>
#include <gloo/broadcast.h>
#include <gloo/rendezvous/context.h>
#include <gloo/transport/tcp/device.h>

#include "engine/bf16.h"
#include "engine/check.h"
#include "engine/cpu/backend.h"
#include "engine/hex.h"

namespace vvtq::engine::cpu {
namespace {

/// While one lives, this thread takes no signals, or no SIGPIPE: Gloo writes to sockets whose other end may
/// be gone, and the thread it starts keeps the mask that it was started with.
class SignalsBlocked {
  public:
    explicit SignalsBlocked(bool all) {
        all ? sigfillset(&set_) : sigemptyset(&set_);
        sigaddset(&set_, SIGPIPE);
        pthread_sigmask(SIG_BLOCK, &set_, &before_);
    }
    ~SignalsBlocked() {
        sigset_t pipe;
        sigemptyset(&pipe);
        sigaddset(&pipe, SIGPIPE);
        constexpr timespec kNow{0, 0};
        while (sigismember(&before_, SIGPIPE) == 0 && sigtimedwait(&pipe, nullptr, &kNow) > 0) {
        }
        pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    }
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;

  private:
    sigset_t set_, before_;
};

/// Where Gloo leaves this process's addresses and finds those of the others. Every process sets the same
/// number of times, and nothing is asked for before it was set everywhere.
class ExchangeStore final : public gloo::rendezvous::Store {
  public:
    explicit ExchangeStore(const ExchangeText& exchange) : exchange_(exchange) {}
    void set(const std::string& key, const std::vector<char>& data) override {
        for (const std::string& text : exchange_(key + " " + to_hex({data.data(), data.size()}))) {
            const size_t space = text.find(' ');
            if (space == std::string::npos) run_error("Gloo: another process sent `", text, "`");
            const std::string bytes = from_hex(std::string_view(text).substr(space + 1));
            values_[text.substr(0, space)].assign(bytes.begin(), bytes.end());
        }
    }
    std::vector<char> get(const std::string& key) override {
        const auto at = values_.find(key);
        if (at == values_.end()) run_error("Gloo: no process has sent `", key, "`");
        return at->second;
    }
    void wait(const std::vector<std::string>&) override {}

  private:
    const ExchangeText& exchange_;
    std::map<std::string, std::vector<char>> values_;
};

/// Why a name has no address; "" where it has one. Gloo itself reads memory that was never written there.
std::string resolve_problem(const std::string& name) {
    addrinfo* found = nullptr;
    const int code = getaddrinfo(name.c_str(), nullptr, nullptr, &found);
    if (code != 0) return gai_strerror(code);
    freeaddrinfo(found);
    return "";
}

std::shared_ptr<gloo::transport::Device> open_device(std::string address) {
    if (address.empty()) {
        std::array<char, 256> name{};
        gethostname(name.data(), name.size() - 1);
        address = resolve_problem(name.data()).empty() ? name.data() : "127.0.0.1";
    } else if (const std::string problem = resolve_problem(address); !problem.empty()) {
        run_error("Gloo: this machine's address ", address, ": ", problem);
    }
    const SignalsBlocked blocked(true);
    return gloo::transport::tcp::CreateDevice(gloo::transport::tcp::attr(address.c_str()));
}

/// "Connection closed by peer [10.0.0.2]" of "[/build/gloo/pair.cc:598] Connection closed by peer
/// [10.0.0.2]:4711"; the bytes of Gloo's ports are swapped.
std::string reason_of(const std::exception& error) {
    static const std::regex place("^\\[[^\\]]*\\] "), port("\\]:[0-9]+(\\$-?[0-9]+)?"), space("\\s+");
    std::string text = std::regex_replace(error.what(), place, "");
    text = std::regex_replace(std::regex_replace(text, port, "]"), space, " ");
    text.erase(text.find_last_not_of(' ') + 1);
    return text;
}

/// to[i] = a[i] + b[i]
template <typename T>
void add_all(void* to, const void* a, const void* b, size_t n) {
    const auto *pa = static_cast<const T*>(a), *pb = static_cast<const T*>(b);
    auto* py = static_cast<T*>(to);
    for (size_t i = 0; i < n; ++i) {
        if constexpr (std::is_same_v<T, uint16_t>) {  // bf16, added in f32
            py[i] = bf16_bits(bf16_value(pa[i]) + bf16_value(pb[i]));
        } else {
            py[i] = pa[i] + pb[i];
        }
    }
}

class GlooCommunicator final : public Communicator {
  public:
    explicit GlooCommunicator(const CommunicatorOptions& options)
        : Communicator(options.rank, options.size), timeout_(options.timeout) {
        if (size() == 1) return;
        VVTQ_CHECK(options.exchange != nullptr && options.timeout > 0, "timeout ", options.timeout);
        context_ = std::make_shared<gloo::rendezvous::Context>(rank(), size());
        context_->setTimeout(std::chrono::milliseconds(std::llround(std::ceil(1000 * timeout_))));
        ExchangeStore store(options.exchange);
        guarded("cannot connect the processes", [&] {
            auto device = open_device(options.address);
            context_->connectFullMesh(store, device);
            for (int i = 0; i < size(); ++i) {
                const std::vector<char> name = store.get("rank_" + std::to_string(i));
                hosts_.emplace_back(name.begin(), name.end());
            }
        });
        options.exchange("");  // nobody closes a connection that another has not seen yet
    }

    std::string description() const override { return "Gloo"; }

    void all_reduce(const std::vector<Tensor>& tensors) override {
        for (const Tensor& x : tensors) all_reduce(x);
    }
    void all_reduce(const Tensor& x) {
        VVTQ_CHECK(x.device() == Device::cpu && is_floating(x.dtype()), "the sum of ", name_of(x.dtype()));
        if (size() == 1 || x.numel() == 0) return;
        gloo::AllreduceOptions options(context_);
        options.setAlgorithm(gloo::AllreduceOptions::Algorithm::RING);
        const auto set = [&]<typename T>(T* data) {
            options.setOutput(data, static_cast<size_t>(x.numel()));
            options.setReduceFunction(add_all<T>);
        };
        if (x.dtype() == DType::f32) {
            set(x.data<float>());
        } else if (x.dtype() == DType::f64) {
            set(x.data<double>());
        } else {
            set(static_cast<uint16_t*>(x.raw()));
        }
        run([&] { gloo::allreduce(options); });
    }

    void all_gather(const Tensor& part, const Tensor& all) override {
        VVTQ_CHECK(part.device() == Device::cpu && all.device() == Device::cpu &&
                       part.dtype() == all.dtype() && all.numel() == part.numel() * size(),
                   part.shape().str(), " of ", size(), " processes to ", all.shape().str());
        if (part.numel() == 0) return;
        if (size() == 1) {
            std::memcpy(all.raw(), part.raw(), part.bytes());
            return;
        }
        gloo::AllgatherOptions options(context_);
        options.setInput(static_cast<char*>(part.raw()), part.bytes());
        options.setOutput(static_cast<char*>(all.raw()), all.bytes());
        run([&] { gloo::allgather(options); });
    }

    void broadcast(const Tensor& x, int root) override {
        VVTQ_CHECK(x.device() == Device::cpu && root >= 0 && root < size(), "rank ", root, " of ", size());
        if (size() == 1 || x.numel() == 0) return;
        gloo::BroadcastOptions options(context_);
        options.setOutput(static_cast<char*>(x.raw()), x.bytes());
        options.setRoot(root);
        run([&] { gloo::broadcast(options); });
    }

    void wait() override {}

  private:
    /// Gloo's exceptions become one line.
    template <typename F>
    void guarded(const char* what, F&& f) {
        const SignalsBlocked blocked(false);
        try {
            f();
        } catch (const Error&) {
            throw;
        } catch (const std::exception& error) {
            run_error("Gloo: ", what, ": ", reason_of(error));
        }
    }
    template <typename F>
    void run(F&& operation) {
        guarded("an operation failed", [&] {
            try {
                operation();
            } catch (const gloo::IoException& error) {
                const std::string reason = reason_of(error);
                if (reason.starts_with("Timed out")) {
                    run_error("Gloo: the other processes did not answer within ", timeout_, " s");
                }
                run_error("Gloo: ", gone(), ": ", reason);
            }
        });
    }
    /// "process 1 on node7 is gone": those whose connection is closed, which a message to them shows.
    std::string gone() {
        // the process that went first may be noticed a moment after one that ended because of it
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        std::string names;
        int count = 0;
        char nothing = 0;
        const auto buffer = context_->createUnboundBuffer(&nothing, 0);
        constexpr uint64_t kSlot = ~uint64_t{0};  // that no operation uses
        for (int i = 0; i < size(); ++i) {
            if (i == rank()) continue;
            try {
                buffer->send(i, kSlot, 0, 0);
            } catch (const gloo::Exception&) {
                names += concat(count++ == 0 ? "" : ", ", i, " on ", hosts_.at(static_cast<size_t>(i)));
            }
        }
        return count > 1 ? "processes " + names + " are gone" : "process " + names + " is gone";
    }

    double timeout_;
    std::vector<std::string> hosts_;                      // of all ranks
    std::shared_ptr<gloo::rendezvous::Context> context_;  // null where this process is alone
};

}  // namespace

std::unique_ptr<Communicator> communicator(const CommunicatorOptions& options) {
    return std::make_unique<GlooCommunicator>(options);
}

}  // namespace vvtq::engine::cpu
