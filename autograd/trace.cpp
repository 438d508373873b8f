#include "autograd/trace.h"

namespace vvtq::autograd {

namespace {
thread_local Trace* current = nullptr;
}  // namespace

Trace::Trace(See see) : see_(std::move(see)) {
    VVTQ_CHECK(current == nullptr, "a trace within a trace");
    current = this;
}

Trace::~Trace() { current = nullptr; }

bool Trace::active() { return current != nullptr; }

void Trace::tell(OpArguments arguments) { current->told_ = std::move(arguments); }

void Trace::note(const char* op, const std::vector<Variable>& inputs, const std::vector<Variable>& outputs) {
    const TracedOp traced{op, Scope::current(), inputs, outputs, std::exchange(current->told_, {})};
    current->see_(traced);
}

}  // namespace vvtq::autograd
