#include "apps/training/interrupt.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>

#include "data/bytes.h"

namespace vvtq::apps {
namespace {

struct Signal {
    int number;
    const char* name;
};
constexpr Signal kSignals[] = {
    {SIGINT, "SIGINT"}, {SIGTERM, "SIGTERM"}, {SIGHUP, "SIGHUP"}, {SIGXCPU, "SIGXCPU"}};

volatile std::sig_atomic_t received = 0;
char stopped[80] = "";  // how the line of stop_at_signals begins

const char* name_of(int number) {
    const auto* found = std::find_if(std::begin(kSignals), std::end(kSignals),
                                     [=](const Signal& signal) { return signal.number == number; });
    return found == std::end(kSignals) ? "no signal" : found->name;
}

void handle(void (*handler)(int)) {
    struct sigaction action = {}, before = {};
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    for (const Signal& signal : kSignals) {
        sigaction(signal.number, nullptr, &before);
        if (signal.number == SIGHUP && before.sa_handler == SIG_IGN) continue;
        sigaction(signal.number, &action, nullptr);
    }
}

void at_once(int signal) {
    for (const char* text : {static_cast<const char*>(stopped), name_of(signal), "\n"}) {
        data::write_all(STDERR_FILENO, text, std::strlen(text));
    }
    _exit(1);
}

void remember(int signal) {
    received = signal;
    handle(SIG_DFL);
    std::signal(SIGXCPU, SIG_IGN);
}

}  // namespace

void stop_at_signals(const std::string& command) {
    const std::string text = command + ": stopped by ";
    stopped[text.copy(stopped, sizeof stopped - 1)] = '\0';
    handle(at_once);
}

void install_interrupt_handler() {
    received = 0;
    handle(remember);
}

bool interrupted() { return received != 0; }

const char* interrupt_name() { return name_of(received); }

}  // namespace vvtq::apps
