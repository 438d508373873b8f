// optimizer: AdamW with the published parameter groups (specification section 7).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/device.h"
#include "engine/kernels.h"
#include "nn/module.h"

namespace vvtq::nn {

/// True where weight decay applies: two or more dimensions and the name does not end in ".bias".
bool has_weight_decay(const NamedParameter& parameter);

struct AdamwOptions {
    double beta1 = 0.9;
    double beta2 = 0.999;
    double eps = 1e-8;
    double weight_decay = 1e-4;
    double clip_grad = 0.0;  // largest global l2 norm of the gradients; 0 for none
};

/// Decoupled weight decay (Loshchilov & Hutter 2019), bias-corrected. Each distinct parameter is updated
/// once.
class Adamw {
  public:
    Adamw(std::vector<NamedParameter> parameters, const AdamwOptions& options);

    /// One update from the collected gradients: `schedule`, then `update`.
    void step(double lr);
    /// Hands the device the learning rate and the corrections of the next update, and counts it.
    void schedule(double lr);
    /// The update itself: kernels alone. A parameter without a gradient is left alone, and all are where
    /// `found_inf` is not 0.
    void update();
    /// (1) i32: bit 0 is set by who finds a loss that is not finite (kernel find_not_finite), bit 1 where
    /// an update makes a step, or another parameter of one element, so, bit 2 where a gradient is and the
    /// loss is not. Updates stop at it until somebody clears it.
    const Tensor& found_inf() const { return found_inf_; }
    void clear_grad();

    int64_t steps_done() const { return step_; }
    /// What it updates, each distinct parameter once.
    const std::vector<NamedParameter>& parameters() const { return parameters_; }

    /// Moments by name, "<parameter>.exp_avg" and "<parameter>.exp_avg_sq", sharing memory.
    std::vector<std::pair<std::string, Tensor>> state() const;
    /// Restores what `state` gave; throws Error(Fault::input) listing names that are missing or misshapen.
    void load_state(const std::vector<std::pair<std::string, Tensor>>& state, int64_t steps_done);

  private:
    std::vector<NamedParameter> parameters_;
    std::vector<Tensor> exp_avg_;
    std::vector<Tensor> exp_avg_sq_;
    AdamwOptions options_;
    int64_t step_ = 0;
    Tensor schedule_;  // (4) f64, see kernel adamw
    Tensor found_inf_;
    std::unique_ptr<engine::Upload> to_schedule_;
};

}  // namespace vvtq::nn
