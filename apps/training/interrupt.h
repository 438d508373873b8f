// interrupt: Ctrl-C and SIGTERM end a command after its current step.
#pragma once

namespace vvtq::apps {

/// From here on the first SIGINT or SIGTERM only sets a flag, and the second one kills the process.
void install_interrupt_handler();

/// Whether a signal has arrived.
bool interrupted();

/// "SIGINT" or "SIGTERM"; "no signal" where none has arrived.
const char* interrupt_name();

}  // namespace vvtq::apps
