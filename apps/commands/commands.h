// apps/: the `vvtq` program. options/: a command line becomes Options. commands/: a command turns them into a
// model (model_setup) and what a run is told (training_setup). training/: the trainer runs passes over the
// pictures (passes, training_step, evaluate), logs them, saves checkpoints, and stops when asked to
// (interrupt); it knows no flags.
//
// commands: one function for each command of the program. Each returns the exit status: 0 done, 1 stopped by
// a signal before the end. Errors are thrown (engine::Error).
#pragma once

#include "apps/launch/job.h"
#include "apps/options/options.h"

namespace vvtq::apps {

/// `vvtq pretrain` and `vvtq train`: fills --save_checkpoint_path, once all input was found good; with
/// --evaluate only measures. A run resumed into another folder brings its model_best.safetensors along.
/// `job` is that of several processes, which all call this; null: alone.
int command_train(Options& options, Job* job);

/// `vvtq softlabel`: a teacher labels crops of every training picture, into one file.
int command_softlabel(Options& options);

/// `vvtq predict`: prints the classes of pictures, one line each.
int command_predict(Options& options);

/// `vvtq inspect`: tells what the quantizers of a checkpoint do, on the terminal, as JSON and as a page.
int command_inspect(Options& options);

/// `vvtq convert`: writes a checkpoint in another container, or with another program's names.
int command_convert(Options& options);

/// `vvtq pack`: writes the pictures of a folder into tar shards with an index.
int command_pack(Options& options);

/// `vvtq unpack`: writes the pictures of shards into a folder.
int command_unpack(Options& options);

/// `vvtq export`: writes a model as a packed file or as ONNX.
int command_export(Options& options);

/// `vvtq bench step`: prints one line of JSON. `job` as in command_train.
int command_bench_step(Options& options, Job* job);

/// `vvtq bench op`: prints one line of JSON for the device's ceilings, then one for each kernel of a step.
int command_bench_op(Options& options);

/// `vvtq bench predict`: prints one line of JSON for the model's files, then one for each precision, number
/// of threads and batch size.
int command_bench_predict(Options& options);

/// `vvtq bench train`: prints one line of JSON for each number of workers.
int command_bench_train(Options& options);

/// `vvtq bench loader`: prints one line of JSON.
int command_bench_loader(Options& options);

}  // namespace vvtq::apps
