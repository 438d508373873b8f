// training_step: steps of training, the same for `train`, `pretrain` and `bench step`.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "apps/training/device_batch.h"
#include "apps/training/readback.h"
#include "nn/data_parallel.h"
#include "nn/model.h"
#include "nn/optimizer.h"
#include "quant/oscillation.h"

namespace vvtq::apps {

/// What a step is told beside its batch.
struct StepRates {
    double lr = 0.0;
    bool regularize = false;          // whether the bin regularizer is computed
    double regularizer_weight = 0.0;  // lambda
    uint64_t random_key = 0;          // stochastic depth
    bool stop = false;                // this process asks all to stop
    double freeze_threshold = 0.0;    // of StepOptions::oscillation, where it freezes
};

/// What the steps of a run have in common.
struct StepOptions {
    engine::DType dtype = engine::DType::f32;  // activations
    double smoothing = 0.0;                    // of labels, where the batch has no distributions
    bool graph = true;                         // record the step and replay it, where the device can
    bool skip = false;  // a step that is not finite is left out, instead of all from there on
    nn::DataParallelOptions parallel = {};
    quant::OscillationTracker* oscillation = nullptr;  // follows the weights' codes; outlives the step
};

/// Of the whole batch, the same on all processes.
struct StepResult {
    double loss;         // without the regularizer
    double regularizer;  // lambda times the sum over layers; 0 without
    int64_t top1, top5;  // pictures whose label is the largest, among the 5 largest logits
    bool stop;           // a process asked to stop
    int found_inf;       // Adamw::found_inf behind this step: where it is not 0, this step (and later ones,
                    // without StepOptions::skip) changed nothing, or (bit 1) made a step of a quantizer not
                    // finite
};

/// Why a step was not finite.
struct BadStep {
    std::string text;
    bool found;  // whether the place was found: it may lie in the pictures of another process
};

/// Forward, loss, regularizer, backward, AdamW over the batch at its fixed place, which is this process's
/// part of the step's batch. A step is enqueued and its result read later; on the CPU it is done at once.
class TrainingStep {
  public:
    /// All must outlive this. The model's parameters and the optimizer's are on the batch's device.
    TrainingStep(nn::Model& model, nn::Adamw& optimizer, const DeviceBatch& batch,
                 const StepOptions& options);

    /// Enqueues a step on what the batch was loaded with. Batches of one size only, where steps are replayed.
    void submit(const StepRates& rates);
    size_t pending() const { return results_.pending(); }
    /// Bytes of gradients that this process hands to the communicator in a step.
    size_t bytes_sent() const { return parallel_.bytes(); }
    /// The result of the oldest step that was not taken yet; waits for it.
    StepResult take();

    /// Repeats the step on the loaded batch, by this process alone, without the update and with every output
    /// checked: which of loss, regularizer, gradient or parameter is not finite, its value, and where it
    /// begins.
    BadStep reason(const StepRates& rates, const StepResult& bad);
    /// Throws Error(Fault::run) that says so.
    [[noreturn]] void explain(const StepRates& rates, const StepResult& bad);

  private:
    using Part = DeviceBatch::Part;
    Part part(int64_t shard) const { return {shard, parallel_.local_shards()}; }
    nn::Variable logits_of(Part part) const;
    nn::Variable loss_of(const nn::Variable& logits, Part part) const;
    /// lambda times the bin regularizer of the weights as they were prepared last.
    nn::Variable regularizer_term() const;
    /// Forward and backward passes, one shard after the other; the gradients are not averaged yet.
    void compute_shards(const nn::PreparedWeights& weights);
    void compute(bool regularize);
    BadStep bad_gradient(const StepRates& rates);

    nn::Model& model_;
    nn::Adamw& optimizer_;
    const DeviceBatch& batch_;
    StepOptions options_;
    nn::DataParallel parallel_;
    // at fixed places, for replaying
    nn::Tensor key_, lambda_, stop_;
    nn::Tensor totals_, regularizer_, none_found_;  // totals_: loss of each part, top1, top5, stop
    std::unique_ptr<engine::Upload> to_key_, to_lambda_, to_stop_;
    std::unique_ptr<engine::Graph> graph_;
    bool graph_regularizes_ = false;
    int64_t graph_batch_ = 0;  // pictures it was recorded with
    int eager_ = 0;            // steps since the kind of step changed
    Readback results_;
};

/// Throws Error(Fault::run) naming the first parameter, running statistic or moment with values that are not
/// finite.
void check_state_finite(const nn::Model& model, const nn::Adamw& optimizer);

}  // namespace vvtq::apps
