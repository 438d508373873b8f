// interrupt: signals end a command, at once while it has nothing to lose, else after its current step.
// SIGINT (Ctrl-C), SIGTERM, SIGHUP (the terminal is gone) and SIGXCPU (a limit on computing time) count.
#pragma once

#include <string>

namespace vvtq::apps {

/// From here on the first signal ends the process with status 1 and one line, "vvtq train: stopped by
/// SIGTERM". SIGHUP stays ignored where the process was started so (nohup).
void stop_at_signals(const std::string& command);

/// From here on the first signal only sets a flag, and the second one kills the process. SIGXCPU, which comes
/// every second, counts once.
void install_interrupt_handler();

/// Whether a signal has arrived since.
bool interrupted();

/// "SIGINT", "SIGTERM" and so on; "no signal" where none has arrived.
const char* interrupt_name();

}  // namespace vvtq::apps
