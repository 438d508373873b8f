// trace: the ops of a forward pass with everything they were told, for programs that say it in another
// language.
#pragma once

#include <any>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "autograd/variable.h"

namespace vvtq::autograd {

/// What an op takes beside its Variables, by the names of ops.h: int64_t, double, Tensor, engine::QuantParams
/// and what else an op names. Of a Quantized "x" the scale stands under "x_scale".
using OpArguments = std::map<std::string, std::any>;

/// One op, as `record` saw it.
struct TracedOp {
    std::string op;     // "linear"
    std::string scope;  // the layer that computed it (Scope::current)
    std::vector<Variable> inputs, outputs;
    OpArguments arguments;

    template <typename T>
    const T& get(const std::string& name) const {
        const auto found = arguments.find(name);
        const T* value = found == arguments.end() ? nullptr : std::any_cast<T>(&found->second);
        VVTQ_CHECK(value != nullptr, op, " does not tell its ", name);
        return *value;
    }
};

/// While one lives, `see` is called with each op of this thread, in their order; nothing else changes. Traces
/// do not nest.
class Trace {
  public:
    using See = std::function<void(const TracedOp& op)>;
    explicit Trace(See see);
    ~Trace();
    Trace(const Trace&) = delete;
    Trace& operator=(const Trace&) = delete;

    static bool active();
    /// What the next op that is recorded takes.
    static void tell(OpArguments arguments);
    /// For `record`.
    static void note(const char* op, const std::vector<Variable>& inputs,
                     const std::vector<Variable>& outputs);

  private:
    See see_;
    OpArguments told_;
};

/// For an op, before it records itself: arguments() gives OpArguments and is called under a Trace alone.
template <typename Arguments>
void tell_trace(Arguments&& arguments) {
    if (Trace::active()) Trace::tell(arguments());
}

}  // namespace vvtq::autograd
