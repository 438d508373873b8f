// engine/: tensors, device memory, random numbers and compute kernels. It knows nothing of gradients.
//
// check: the one exception type of the program and the macros that throw it.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace vvtq::engine {

/// What went wrong decides the exit status of the `vvtq` program.
enum class Fault {
    internal,  ///< a broken precondition between parts of the program: exit 1
    run,       ///< the run failed (a loss that is not finite, a full disk): exit 1
    input,     ///< bad usage or bad input; the message names the file or flag and the remedy: exit 2
};

/// The only exception the program throws, beside OutOfMemory, which is one. Messages are one line and name
/// values.
class Error : public std::runtime_error {
  public:
    Error(Fault fault, const std::string& message) : std::runtime_error(message), fault_(fault) {}
    Fault fault() const { return fault_; }

  private:
    Fault fault_;
};

/// A device has too little memory: Fault::run, unless who asked knows a remedy.
class OutOfMemory : public Error {
  public:
    explicit OutOfMemory(const std::string& message) : Error(Fault::run, message) {}
};

/// Joins the arguments with operator<<.
template <typename... Parts>
std::string concat(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

/// Throws Error(Fault::input): the user's file or flag is at fault. Say what is wrong, where, what to do.
template <typename... Parts>
[[noreturn]] void input_error(const Parts&... parts) {
    throw Error(Fault::input, concat(parts...));
}

/// Throws Error(Fault::run): the run cannot go on.
template <typename... Parts>
[[noreturn]] void run_error(const Parts&... parts) {
    throw Error(Fault::run, concat(parts...));
}

/// Throws Error(Fault::internal).
template <typename... Parts>
[[noreturn]] void internal_error(const Parts&... parts) {
    throw Error(Fault::internal, concat(parts...));
}

}  // namespace vvtq::engine

/// VVTQ_CHECK(condition, message parts...): throws Error(Fault::internal) where the condition does not hold.
/// Write conditions so that NaN fails them.
#define VVTQ_CHECK(condition, ...)                                                              \
    do {                                                                                        \
        if (!(condition)) {                                                                     \
            ::vvtq::engine::internal_error(__func__, ": ", __VA_ARGS__, " [", #condition, "]"); \
        }                                                                                       \
    } while (false)
