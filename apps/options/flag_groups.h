// flag_groups: flags that several commands share.
#pragma once

#include "apps/options/flag_table.h"
#include "apps/options/options.h"

namespace vvtq::apps {

void add_model(FlagTable& flags, ModelFlags& model, bool trains);
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
