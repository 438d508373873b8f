// trainer: the one place that trains: passes over the pictures, evaluation, checkpoints.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "apps/training/checkpoint.h"
#include "apps/training/evaluate.h"
#include "apps/training/guards.h"
#include "apps/training/log.h"
#include "apps/training/meters.h"
#include "apps/training/passes.h"
#include "apps/training/processes.h"
#include "apps/training/run_folder.h"
#include "apps/training/run_loaders.h"
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
/// far. A signal, the step limit, or a picture that cannot be read ends the run after a step, with a
/// checkpoint from which a run goes on exactly there. A checkpoint that cannot be written is told of and
/// tried again at the next one. Everything random depends on (seed, epoch, step) alone. Several processes run
/// one trainer each and do the same; the first one writes.
class Trainer {
  public:
    /// All arguments must outlive the trainer. `resumed` is the checkpoint that `info` comes from, or null.
    /// Throws Error(Fault::input) where no pass begins at info.epoch, and where there are too few pictures
    /// for a batch. Nothing is written before `run`.
    Trainer(const TrainingOptions& options, const TrainingData& data, const Compute& compute,
            nn::Model& model, const CheckpointInfo& info, const Checkpoint* resumed, RunFolder& folder,
            RunLog& log, Processes processes = {});

    /// Throws Error(Fault::run) naming layer and step where something is not finite (the last checkpoint
    /// stays), and where the last state could not be written. Throws Error(Fault::input) where the device has
    /// too little memory for the batch, with one that fits.
    Outcome run();

    /// The file that `run` leaves, also where a resumed run had nothing left to do.
    std::string checkpoint_path() const;
    /// Whether it was written: not where a run that starts afresh is stopped before its first step.
    bool saved() const { return last_checkpoint_ == checkpoint_path(); }
    const CheckpointInfo& info() const { return info_; }
    /// Bytes of its checkpoints, without the header.
    size_t checkpoint_bytes() const;

  private:
    void plan(bool resumed);
    Outcome run_passes();
    Outcome run_pass(const Pass& pass);
    /// Evaluates after a pass, and saves.
    Outcome end_pass(const Pass& pass);
    bool next(data::Loader& batches, data::Batch& batch, const Pass& pass, Meters& meters);
    Outcome stop(const Pass& pass, Meters& meters);
    StepRates rates_of(const Pass& pass, int64_t step) const;
    /// Reads the result of the oldest step that is not accounted for yet.
    void account(const Pass& pass, Meters& meters);
    void account_all(const Pass& pass, Meters& meters);
    /// Repeats a step that was not finite; throws, or says that it was left out.
    void look_into(const Pass& pass, int64_t index, int64_t step, const StepResult& bad);
    /// Whether all processes are to stop after this step.
    bool stopping() const;
    bool at_step_limit() const;
    /// Whether it could be written; tells where not. Throws where the state is not finite.
    bool save(const std::string& file);
    /// Rethrows `error` with the place of the state that was saved before.
    [[noreturn]] void stop_at(const engine::Error& error);
    /// Lets the workers of the next pass begin, where there will be one.
    void start_next_pass();
    /// Evaluates; where memory is short, without the recorded step.
    std::optional<Accuracy> measure();

    const TrainingOptions& options_;
    const TrainingData& data_;
    nn::Model& model_;
    CheckpointInfo info_;
    RunFolder& folder_;
    RunLog& log_;
    Guards guards_;
    Compute compute_;
    RunLoaders loaders_;
    nn::Adamw optimizer_;
    std::unique_ptr<quant::OscillationTracker> oscillation_;  // null where it is not tracked
    std::unique_ptr<DeviceBatch> place_;
    std::unique_ptr<TrainingStep> step_;
    std::vector<Pass> passes_;
    size_t next_pass_ = 0;
    Processes processes_;
    int64_t reading_ = 0;  // the step whose result is being read
    bool in_step_ = false;
    bool asked_to_stop_ = false;   // by the signal of a process, which all saw with the same step
    bool moved_ = false;           // the loader stands elsewhere, for a step that was repeated
    std::string last_checkpoint_;  // empty before the first
    std::string not_saved_;        // why the latest state is not in checkpoint.safetensors
};

}  // namespace vvtq::apps
