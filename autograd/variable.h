// autograd/: reverse-mode differentiation over engine tensors.
//
// variable: a tensor plus its entry on the tape, and the walk back over the tape.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/tensor.h"

namespace vvtq::autograd {

using engine::Tensor;

struct Node;
class Variable;

/// Where a backward function puts the gradients of its inputs.
class Gradients {
  public:
    explicit Gradients(const std::vector<Variable>& inputs);
    /// Whether input i needs a gradient; computing the others is wasted.
    bool wanted(size_t i) const;
    /// The gradient of input i. Its shape must be the input's. A tensor may be shared between inputs.
    void set(size_t i, Tensor gradient);
    const Tensor& at(size_t i) const { return values_[i]; }

  private:
    std::vector<engine::Shape> shapes_;
    std::vector<char> wanted_;
    std::vector<Tensor> values_;
};

/// dy (shape of the output) -> gradients of the inputs. Captures Tensors, never Variables.
using Backward = std::function<void(const Tensor& dy, Gradients& dx)>;

/// The same for an op with several outputs: dy has one gradient for each, undefined where none arrived.
using BackwardOfMany = std::function<void(const std::vector<Tensor>& dy, Gradients& dx)>;

/// One of several outputs. Its gradient has the value's dtype unless another is named (codes of a weight,
/// whose gradient is the weight's).
struct Output {
    Output(Tensor y)
        : value(std::move(y)), gradient(value.dtype()) {}  // implicit, so that lists read plainly
    Output(Tensor y, engine::DType dtype) : value(std::move(y)), gradient(dtype) {}
    Tensor value;
    engine::DType gradient;
};

/// Shared handle on a value and its place on the tape. Leaves that require a gradient collect it in `grad`.
class Variable {
  public:
    Variable() = default;
    /// A constant, or with `requires_grad` a leaf such as a parameter.
    explicit Variable(Tensor value, bool requires_grad = false);
    /// A leaf whose gradient has another dtype than its value: codes, whose gradient is their weight's.
    Variable(Tensor value, engine::DType gradient);

    bool defined() const { return state_ != nullptr; }
    /// Equal for handles on the same value, different for values that live at the same time.
    const void* id() const { return state_.get(); }
    const Tensor& value() const;
    const engine::Shape& shape() const { return value().shape(); }
    /// Replaces the value of a leaf (same shape and dtype): for optimizers, calibration and checkpoints.
    void set_value(Tensor value);
    bool requires_grad() const;
    /// The value's, or another that its op named.
    engine::DType gradient_dtype() const;
    /// The collected gradient; undefined where none has arrived.
    const Tensor& grad() const;
    void clear_grad();
    /// Replaces the gradient of a leaf (shape of the value, gradient_dtype): by a mean over processes.
    void set_grad(Tensor gradient);

    /// Walks the tape from this scalar (one element; upstream gradient 1) or from `upstream` (same shape),
    /// adds to the leaves' `grad`, and frees the tape on the way. Throws Error(Fault::internal) where an op
    /// on the way has no backward or the tape was already used.
    void backward(Tensor upstream = {}) const;

    struct State;

  private:
    friend struct Node;
    friend void backward(const std::vector<Variable>& ys, std::vector<Tensor> upstream);
    friend std::vector<Variable> record(const char* op, std::vector<Output> ys,
                                        const std::vector<Variable>& inputs, BackwardOfMany backward);
    std::shared_ptr<State> state_;
};

/// The same from several variables at once: `upstream` has the gradient of each, shape of its value.
void backward(const std::vector<Variable>& ys, std::vector<Tensor> upstream);

/// The only way to make a node: outputs of `op`, its inputs, its backward. Off the tape (NoGrad, or no input
/// that requires a gradient) it returns a constant. An op without a backward passes nullptr: asking a
/// gradient through it throws. Under `FiniteCheck` throws Error(Fault::run) where y has values that are not
/// finite, naming op and `Scope`.
std::vector<Variable> record(const char* op, std::vector<Output> ys, const std::vector<Variable>& inputs,
                             BackwardOfMany backward);
Variable record(const char* op, Output y, const std::vector<Variable>& inputs, Backward backward);
/// Whether ops record here: false under NoGrad.
bool is_recording();

/// While one lives on this thread, nothing is recorded: for evaluation.
class NoGrad {
  public:
    NoGrad();
    ~NoGrad();
    NoGrad(const NoGrad&) = delete;
    NoGrad& operator=(const NoGrad&) = delete;

  private:
    bool before_;
};

/// While one lives on this thread, backward calls `arrived` with the id of a leaf each time a gradient has
/// been added to it.
class LeafWatch {
  public:
    explicit LeafWatch(std::function<void(const void* leaf)> arrived);
    ~LeafWatch();
    LeafWatch(const LeafWatch&) = delete;
    LeafWatch& operator=(const LeafWatch&) = delete;

  private:
    std::function<void(const void*)> before_;
};

/// While one lives on this thread, `record` checks every output and names the first op whose output is not
/// finite.
class FiniteCheck {
  public:
    FiniteCheck();
    ~FiniteCheck();
    FiniteCheck(const FiniteCheck&) = delete;
    FiniteCheck& operator=(const FiniteCheck&) = delete;

  private:
    bool before_;
};

/// Names the layer that is computing on this thread, for the messages of FiniteCheck. Scopes nest.
class Scope {
  public:
    explicit Scope(const std::string& name);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    /// "blocks.3.attn.proj_q", or "" outside.
    static std::string current();
};

}  // namespace vvtq::autograd
