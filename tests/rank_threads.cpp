#include "tests/rank_threads.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "engine/check.h"
#include "tests/catch.h"

namespace vvtq::tests {

using engine::Device;

bool gloo_missing() {
    try {
        engine::make_communicator(Device::cpu, {});
        return false;
    } catch (const engine::Error& error) {
        CHECK(error.fault() == engine::Fault::input);
        CHECK(std::string(error.what()) ==
              "`dist_backend` gloo: this build has no Gloo: install libgloo-dev and configure again");
    }
    WARN("this build has no Gloo");
    return true;
}

struct Meeting::State {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<std::string> texts, result;
    size_t arrived = 0;
    int round = 0;
};

Meeting::Meeting(int size) : state_(std::make_shared<State>()) {
    state_->texts.resize(static_cast<size_t>(size));
}
Meeting::~Meeting() = default;

engine::ExchangeText Meeting::exchange_of(int rank) const {
    return [state = state_, rank](const std::string& own) {
        std::unique_lock lock(state->mutex);
        const int round = state->round;
        state->texts.at(static_cast<size_t>(rank)) = own;
        if (++state->arrived == state->texts.size()) {
            state->result = state->texts;
            state->arrived = 0;
            ++state->round;
            state->changed.notify_all();
        }
        const auto over = [&] { return state->round > round; };
        if (!state->changed.wait_for(lock, std::chrono::seconds(10), over)) {
            engine::run_error("not all threads exchanged texts");
        }
        return state->result;  // the next round needs this thread
    };
}

std::vector<std::string> run_ranks(int size, const std::function<void(engine::Communicator&)>& work,
                                   double timeout) {
    const Meeting meeting(size);
    std::vector<std::string> errors(static_cast<size_t>(size));
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank) {
        threads.emplace_back([&, rank] {
            try {
                const auto communicator = engine::make_communicator(
                    Device::cpu, {rank, size, meeting.exchange_of(rank), timeout, "127.0.0.1"});
                work(*communicator);
            } catch (const std::exception& error) {
                errors[static_cast<size_t>(rank)] = error.what();
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    return errors;
}

}  // namespace vvtq::tests
