// bench_model: a model with a batch of random pictures, whose training steps are measured.
#pragma once

#include <memory>
#include <vector>

#include "apps/commands/model_setup.h"
#include "apps/training/device_batch.h"
#include "apps/training/training_step.h"
#include "engine/trace.h"

namespace vvtq::apps {

/// Random pictures and classes.
std::unique_ptr<DeviceBatch> random_batch(const Compute& compute, const nn::ModelConfig& config, int64_t size,
                                          uint64_t seed);

/// A model with random weights, and with the quantizers of --wbits and --abits, whose steps start as in a
/// training run, from at most --batch-size random pictures.
std::unique_ptr<nn::Model> random_model(const Options& options, const Compute& compute,
                                        const nn::ModelConfig& config);

/// What `bench step` and `bench op` work on. The steps are started as a training run does.
struct BenchModel {
    /// Of --model, its sizes, bit widths and --batch-size. Throws Error(Fault::input) where they do not fit.
    explicit BenchModel(Options& options);

    /// Makes place for one process's equal part of the batch and fills it. Throws engine::OutOfMemory, and
    /// Error(Fault::input) where processes or shards do not divide it.
    void load_batch(const Options& options, int processes = 1, int shards = 1);
    /// The kernel calls of one training step, enqueued one by one; the whole step is taken.
    std::vector<engine::KernelCall> calls_of_step(bool products_only);

    Compute compute;
    nn::ModelConfig config;
    std::unique_ptr<nn::Model> model;
    std::unique_ptr<nn::Adamw> optimizer;
    std::unique_ptr<quant::OscillationTracker> oscillation;  // null where it is not tracked
    std::unique_ptr<DeviceBatch> place;
    StepRates rates;
};

}  // namespace vvtq::apps
