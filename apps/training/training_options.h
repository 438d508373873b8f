// training_options: what a training run is told. apps/training knows no flags; where a value is at fault, its
// messages name the field in backquotes, as the libraries do.
#pragma once

#include <cstdint>

#include "data/loader.h"
#include "nn/optimizer.h"
#include "nn/schedule.h"

namespace vvtq::apps {

struct TrainingOptions {
    nn::CosineSchedule schedule;  // of the learning rate; its `epochs` are those of the run
    nn::AdamwOptions optimizer;
    /// Training batches, of this process and all others. `num_crops` is of the passes with several crops of
    /// each picture; the seed decides everything random in the run.
    data::LoaderOptions training;
    data::LoaderOptions evaluation;
    double smoothing = 0.0;             // of labels, where batches hold no distributions
    bool regularize = false;            // adds the bin regularizer to the loss
    bool track_oscillation = false;     // of weights
    double freeze_threshold = 0.0;      // oscillation above which weights freeze; 0: none does
    double freeze_threshold_end = 0.0;  // what the threshold falls to; 0: it stays
    bool graph = true;                  // records steps and replays them, where the device can
    int64_t max_steps = 0;  // the run ends after so many steps since the start of training; 0: no limit
    int print_freq = 10;    // steps from one log line to the next
    /// Steps from one checkpoint to the next, beside those after each pass; 0: no others.
    int64_t save_every_steps = 0;
    bool reduce_bf16 = false;      // processes send gradients rounded to bf16
    int64_t buckets = 1;           // pieces in which they send them
    bool skip_not_finite = false;  // a step that is not finite is left out, instead of the end of the run
};

}  // namespace vvtq::apps
