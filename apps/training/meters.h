// meters: the means that a pass over the pictures tells of.
#pragma once

#include "apps/training/checkpoint_info.h"
#include "apps/training/log.h"
#include "apps/training/training_step.h"

namespace vvtq::apps {

struct Meters {
    /// Goes on from the sums of the pass so far, and keeps them there.
    explicit Meters(RunningMeans& so_far);
    /// Adds a step over `batch_size` pictures.
    void update(const StepResult& result, int64_t batch_size);

    /// Where a report stands: batch `batch` of `batches`, step `step` since the start of training.
    struct Place {
        int epoch, epochs, crops;
        int64_t batch, batches, step;
        double lr, lambda;
    };
    /// The published line, the bar, and an object in metrics.jsonl.
    void report(const Place& place, RunLog& log) const;

    Meter time{"Time", "%6.3f"};
    Meter data{"Data", "%6.3f"};
    Meter loss{"Loss", "%.4e"};
    Meter regularizer{"Reg", "%.4e"};
    Meter top1{"Acc@1", "%6.2f"};
    Meter top5{"Acc@5", "%6.2f"};
    Stopwatch watch;    // from one result to the next
    Stopwatch waiting;  // for the loader

  private:
    RunningMeans& means_;
    int64_t pictures_ = 0;  // of the latest batch
};

}  // namespace vvtq::apps
