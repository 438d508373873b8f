// trainer: the one place that trains: passes over the pictures, evaluation, checkpoints.
#pragma once

#include <memory>
#include <string>

#include "apps/training/checkpoint.h"
#include "apps/training/log.h"
#include "apps/training/passes.h"
#include "apps/training/training_data.h"
#include "apps/training/training_options.h"
#include "apps/training/training_step.h"

namespace vvtq::apps {

enum class Outcome {
    finished,     ///< all epochs are done
    step_limit,   ///< TrainingOptions::max_steps is reached
    interrupted,  ///< a signal arrived
};

/// Trains `model` from the place that `info` names to the end of the run (specification sections 6 and 7).
/// The learning rate and the regularizer's weight of a pass are those of its first epoch. After each pass the
/// model is evaluated and checkpoint.safetensors replaced, model_best.safetensors where it is the best so
/// far. A signal or the step limit ends the run after a step, with a checkpoint from which a run goes on
/// exactly there. Everything random depends on (seed, epoch, step) alone.
class Trainer {
  public:
    /// All arguments must outlive the trainer. `resumed` is the checkpoint that `info` comes from, or null.
    /// Throws Error(Fault::input) where no pass begins at info.epoch, and where there are too few pictures
    /// for a batch. Nothing is written before `run`.
    Trainer(const TrainingOptions& options, const TrainingData& data, const Compute& compute,
            nn::Model& model, const CheckpointInfo& info, const Checkpoint* resumed, RunLog& log);

    /// Throws Error(Fault::run) naming layer and step where something is not finite; the last checkpoint
    /// stays. Throws Error(Fault::input) where the device has too little memory for the batch, with one that
    /// fits.
    Outcome run();

    /// The file that `run` leaves, also where a resumed run had nothing left to do.
    std::string checkpoint_path() const;
    const CheckpointInfo& info() const { return info_; }

  private:
    struct Meters;

    Outcome run_passes();
    Outcome run_pass(const Pass& pass);
    StepRates rates_of(const Pass& pass, int64_t step) const;
    /// Reads the result of the oldest step that is not accounted for yet.
    void account(const Pass& pass, Meters& meters);
    void report(const Pass& pass, int64_t batch, int64_t batches, int64_t step, double lr,
                const Meters& meters);
    bool at_step_limit() const;
    void save(const std::string& file);
    data::Loader& loader(int crops);

    const TrainingOptions& options_;
    const TrainingData& data_;
    nn::Model& model_;
    CheckpointInfo info_;
    RunLog& log_;
    Compute compute_;
    nn::Adamw optimizer_;
    std::unique_ptr<DeviceBatch> place_;
    std::unique_ptr<TrainingStep> step_;
    std::vector<Pass> passes_;
    size_t next_pass_ = 0;
    int64_t reading_ = 0;  // the step whose result is being read
    bool in_step_ = false;
    std::string last_checkpoint_;                     // empty before the first
    std::unique_ptr<data::Loader> single_, several_;  // made when first needed
};

}  // namespace vvtq::apps
