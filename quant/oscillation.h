// oscillation: which weights turn back and forth between two codes while a model is trained, and freezing
// them (specification section 11).
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/device.h"
#include "nn/model.h"
#include "nn/quantizer.h"

namespace vvtq::quant {

inline constexpr double kOscillationMomentum = 0.01;  // m
inline constexpr double kOscillating = 0.005;         // a weight whose f is above this oscillates
/// The least threshold of freezing: f of a weight that turned back once, twice and three times in a row is
/// below 3 m.
inline constexpr double kLeastFreezeThreshold = 3 * kOscillationMomentum;

/// How the weights of a layer lie in their bins.
struct WeightBins {
    std::vector<double> steps;      // of the quantizer; empty for one bit
    std::vector<double> occupancy;  // share of the weights with code Qn, Qn + 1, ..., Qp
    double variance = 0;  // mean of (v - the mean v of its bin)^2, v = w / a; of one bit w / mean |w|
};
/// Of the weight in a slot; occupancy is empty where its quantizer has no codes or no step yet. Waits for the
/// device.
WeightBins weight_bins(const nn::QuantizerSlot& slot);

/// How the weights of a layer, or of a model, oscillate.
struct Oscillation {
    double share = 0;   // of weights that oscillate
    double mean = 0;    // of f
    double frozen = 0;  // share of frozen weights
};

/// Follows the codes of all weights of a model through its training. A weight oscillates in a step where its
/// code changes in the direction opposite to its latest change; f, an exponential mean of this with momentum
/// m, says how often. Where it freezes, a weight whose f is above the threshold keeps the mean of its codes,
/// rounded, from then on: after each update its latent weight is set to step times code. So every other
/// part, from the next forward pass to an export, sees an ordinary weight, and the step goes on learning.
///
/// Memory, for a weight: 1 byte for its code, 1 for its direction, 4 for f, and 4 for the mean of its codes
/// where it freezes. f decays by 1 % a step, which bf16's 8 bits cannot follow, and a mean of f16 would stall
/// between two codes.
class OscillationTracker {
  public:
    /// `model` has its quantizers and outlives this. One without a step for its codes is not followed.
    OscillationTracker(nn::Model& model, bool freezes);

    /// In every step: between the quantization of the weights and the update, ...
    void begin();
    /// ... behind the backward pass (frozen weights get no gradient), ...
    void clear_frozen() const;
    /// ... and behind the update. Kernels alone; nothing changes where found_inf (1) i32 is not 0.
    void follow(const nn::Tensor& found_inf) const;

    bool freezes() const { return freezes_; }
    /// f above which weights freeze from the next step on.
    void set_threshold(double threshold);

    /// What it keeps, by name, sharing memory: "<weight>.osc_code" (q - Qn) and ".osc_mark"
    /// (engine::CodeMark) u8, ".osc_frequency" and, where it freezes, ".osc_mean" f32.
    std::vector<std::pair<std::string, nn::Tensor>> state() const;
    /// Says that the tensors of `state` were filled from a file. Throws Error(Fault::input) naming one that
    /// holds what cannot be.
    void state_loaded();

    /// Of every layer by its weight's path, in module order. Waits for the device.
    std::vector<std::pair<std::string, Oscillation>> layers() const;
    /// Of all weights of the model, from those of its layers.
    Oscillation total(const std::vector<std::pair<std::string, Oscillation>>& layers) const;

  private:
    struct Weight {
        std::string path, name;  // of the slot, of the parameter
        nn::QuantizerSlot* slot;
        nn::Tensor code, mark, frequency, mean;
    };
    bool freezes_, begun_ = false;
    std::vector<Weight> weights_;
    std::vector<engine::CodeTrackItem> items_;  // of the weights whose codes are followed
    nn::Tensor threshold_;                      // (1) f32, where it freezes
    std::unique_ptr<engine::Upload> to_threshold_;
};

/// The threshold in `epoch` of `epochs`: from `first` to `last` along half a cosine.
double freeze_threshold(double first, double last, double epoch, double epochs);

}  // namespace vvtq::quant
