// nn/: modules, models, losses, optimizer and schedules. It does not know the quantizers of quant/; layers
// own slots that quant/attach fills.
//
// module: a named tree of parameters.
#pragma once

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "autograd/variable.h"
#include "nn/batch.h"

namespace vvtq::nn {

using autograd::Tensor;
using autograd::Variable;

struct NamedParameter {
    std::string name;    // path in the tree: "blocks.0.attn.proj_q.weight"
    Variable parameter;  // shared handle
};

/// Non-copyable, non-movable node of the tree: members register themselves in the constructor, in the order
/// of the published state files.
class Module {
  public:
    Module() = default;
    virtual ~Module() = default;
    Module(const Module&) = delete;
    Module& operator=(const Module&) = delete;

    /// All parameters below this module, in registration order, names prefixed by `prefix`.
    std::vector<NamedParameter> parameters(const std::string& prefix = "") const;
    /// Values that belong to the state and are not trained, likewise: running statistics.
    std::vector<std::pair<std::string, Tensor>> buffers(const std::string& prefix = "") const;
    /// All modules below this one with their paths, this one first.
    std::vector<std::pair<std::string, Module*>> modules(const std::string& prefix = "");
    /// Moves all parameters and buffers below this module to a device. Optimizers and quantizers are made
    /// afterwards.
    void to(engine::Device device);
    /// Training or evaluation (stochastic depth), for the whole tree.
    void train(bool on);
    bool training() const { return training_; }
    /// How the pictures of the next forward passes belong to the step's batch, for the whole tree.
    void share_batch(const BatchShare& share);
    const BatchShare& batch_share() const { return batch_share_; }
    /// The name this module was added under, one step of its path; autograd::Scope takes it while it
    /// computes.
    const std::string& name() const { return name_; }

  protected:
    /// A leaf that requires a gradient.
    Variable& add_parameter(const std::string& name, Tensor value);
    /// Values beside the parameters, in the state files under this name.
    Tensor& add_buffer(const std::string& name, Tensor value);
    /// `child` must live as long as this module. An empty name adds the child's parameters under this
    /// module's own path (`<layer>.alpha`).
    void add_module(const std::string& name, Module& child);

  private:
    struct Slot {
        std::string name;
        Variable parameter;       // defined for a parameter
        Tensor buffer;            // defined for a buffer
        Module* child = nullptr;  // set for a module
    };
    std::deque<Slot> slots_;  // references to parameters stay valid
    std::string name_;
    bool training_ = true;
    BatchShare batch_share_;
};

}  // namespace vvtq::nn
