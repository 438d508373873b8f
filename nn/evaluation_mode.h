// evaluation_mode: a model in evaluation for the length of a scope.
#pragma once

#include "nn/module.h"

namespace vvtq::nn {

/// Evaluation while it lives, for a module and all below it; afterwards training again where it was on.
class EvaluationMode {
  public:
    explicit EvaluationMode(Module& module) : module_(module), before_(module.training()) {
        module.train(false);
    }
    ~EvaluationMode() { module_.train(before_); }
    EvaluationMode(const EvaluationMode&) = delete;
    EvaluationMode& operator=(const EvaluationMode&) = delete;

  private:
    Module& module_;
    bool before_;
};

}  // namespace vvtq::nn
