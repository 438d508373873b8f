#include "apps/training/interrupt.h"

#include <csignal>

namespace vvtq::apps {
namespace {

volatile std::sig_atomic_t received = 0;

void on_signal(int signal) {
    received = signal;
    std::signal(SIGINT, SIG_DFL);
    std::signal(SIGTERM, SIG_DFL);
}

}  // namespace

void install_interrupt_handler() {
    received = 0;
    struct sigaction action = {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() { return received != 0; }

const char* interrupt_name() {
    return received == SIGINT ? "SIGINT" : received == SIGTERM ? "SIGTERM" : "no signal";
}

}  // namespace vvtq::apps
