// run_loaders: the loaders of a run: for single crops, for several, and for the evaluation.
#pragma once

#include <memory>

#include "apps/training/passes.h"
#include "apps/training/training_data.h"
#include "apps/training/training_options.h"

namespace vvtq::apps {

/// Each is made when first needed; their batches are for copies to `device`.
class RunLoaders {
  public:
    /// All must outlive this.
    RunLoaders(const TrainingOptions& options, const TrainingData& data, engine::Device device)
        : options_(options), data_(data), device_(device) {}

    /// Throws Error(Fault::input) where it can make no batch.
    data::Loader& training(int crops);
    /// Lets workers begin a pass; nothing happens where they did.
    void start(const Pass& pass, int64_t first = 0);
    /// Lets workers begin the next evaluation; nothing happens where they did.
    data::Loader& start_evaluation();
    /// Frees its memory.
    void end_evaluation() { evaluation_.reset(); }

  private:
    const TrainingOptions& options_;
    const TrainingData& data_;
    engine::Device device_;
    std::unique_ptr<data::Loader> single_, several_, evaluation_;
};

}  // namespace vvtq::apps
