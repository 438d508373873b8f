// guards: signs that a run goes wrong, each named once: a line "=> warning: ..." in the log, and an object
// of the kind "warning" in metrics.jsonl.
#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "apps/training/checkpoint_info.h"
#include "apps/training/log.h"
#include "nn/model.h"

namespace vvtq::apps {

class Guards {
  public:
    /// Both must outlive this.
    Guards(nn::Model& model, RunLog& log) : model_(model), log_(log) {}

    /// The loss of a step, which is finite: far above its recent mean it is a spike. Warns of the first one
    /// of each epoch.
    void see_loss(int epoch, int64_t step, double loss, RunningMeans& means);
    /// A step that was left out because of `reason`, and one that was not. Throws Error(Fault::run) after 100
    /// in a row.
    void see_skipped(int64_t step, const std::string& reason);
    void see_applied() { in_a_row_ = 0; }
    int64_t skipped() const { return skipped_; }

    /// Looks at every quantizer: steps at their floor, and quantizers that have one code for all weights, or
    /// for all that an evaluation of `pictures` gives them.
    void inspect(int64_t step, const nn::Tensor& pictures);

    /// Warns of something else.
    void warn(const std::string& what, int64_t step, const std::string& layer, double value,
              const std::string& text);

  private:
    nn::Model& model_;
    RunLog& log_;
    std::set<std::string> told_;  // what, and where
    int64_t skipped_ = 0, in_a_row_ = 0;
};

}  // namespace vvtq::apps
