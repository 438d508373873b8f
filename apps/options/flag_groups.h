// flag_groups: flags that several commands share.
#pragma once

#include "apps/options/flag_table.h"
#include "apps/options/options.h"

namespace vvtq::apps {

/// Of --precision, in commands that may evaluate.
inline constexpr const char* kPrecisionHelp =
    "bf16, tf32 or fp32 on a GPU, fp32 or fp64 on the CPU, and int8 there where nothing is trained; auto: "
    "bf16 "
    "on a GPU, int8 on the CPU where nothing is trained and all products are of quantized values, else fp32";

/// --model and the sizes of all families; where the command `trains`, classes and stochastic depth too.
void add_model(FlagTable& flags, ModelFlags& model, bool trains);
/// The model in a file that may not say what it holds: --model, sizes, classes and bit widths.
void add_foreign_model(FlagTable& flags, Options& o);
/// How JPEGs are decoded.
void add_decode(FlagTable& flags, DataFlags& data);
void add_data(FlagTable& flags, DataFlags& data, bool augments);
/// The DeiT recipe; all of it is off by default.
void add_augmentation(FlagTable& flags, DataFlags& data);
void add_optimizer(FlagTable& flags, OptimizerFlags& optimizer);
void add_quantizer(FlagTable& flags, QuantizerFlags& quantizer);
/// Device, precision, threads, seed.
void add_run(FlagTable& flags, RunFlags& run);
/// Checkpoints, log, where training begins and ends.
void add_training(FlagTable& flags, RunFlags& run);
void add_processes(FlagTable& flags, Options& o);

}  // namespace vvtq::apps
