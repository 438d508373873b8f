#include "apps/training_step.h"

#include <cmath>

#include "autograd/ops.h"
#include "nn/losses.h"
#include "quant/bin_regularizer.h"

namespace vvtq::apps {
namespace {

constexpr const char* kRemedy = "; a smaller --lr may help";

bool is_finite(const nn::Tensor& x) {
    const nn::Tensor count({1}, engine::DType::i64, x.device());
    engine::kernels(x.device()).count_not_finite(x, count);
    return count.item() == 0;
}

/// The name of the first parameter with values that are not finite; empty where there is none.
std::string parameter_not_finite(const nn::Model& model) {
    for (const nn::NamedParameter& p : model.parameters()) {
        if (!is_finite(p.parameter.value())) {
            return p.name;
        }
    }
    return "";
}

nn::Variable loss_of(const nn::Variable& logits, const StepInput& input) {
    return input.soft_targets.defined() ? nn::soft_cross_entropy(logits, input.soft_targets)
                                        : nn::cross_entropy(logits, input.labels, input.smoothing);
}

/// Repeats the forward pass with every output checked.
[[noreturn]] void report_not_finite(nn::Model& model, const StepInput& input, const char* what) {
    std::string where = "every output of the forward pass is finite when it is repeated";
    try {
        if (const std::string bad = parameter_not_finite(model); !bad.empty()) {
            engine::run_error("parameter ", bad, " has values that are not finite");
        }
        const autograd::NoGrad off_tape;
        const autograd::FiniteCheck check;
        loss_of(model.forward(input.pictures, input.random_key), input);
        if (input.regularize) {
            const autograd::Scope scope("bin regularizer");
            quant::bin_regularizer(model);
        }
    } catch (const engine::Error& error) {
        where = error.what();
    }
    engine::run_error(what, " is not finite: ", where, kRemedy);
}

}  // namespace

StepResult training_step(nn::Model& model, nn::Adamw& optimizer, const StepInput& input) {
    optimizer.clear_grad();
    const nn::Variable logits = model.forward(input.pictures, input.random_key);
    const nn::Variable loss = loss_of(logits, input);
    StepResult result{loss.value().item(), 0.0, logits.value()};
    if (!std::isfinite(result.loss)) {
        report_not_finite(model, input, "the loss");
    }
    if (input.regularize) {
        const nn::Variable term =
            autograd::scale(quant::bin_regularizer(model).total, input.regularizer_weight);
        result.regularizer = term.value().item();
        if (!std::isfinite(result.regularizer)) {
            report_not_finite(model, input, "the bin regularizer");
        }
        autograd::add(loss, term).backward();
    } else {
        loss.backward();
    }
    optimizer.step(input.lr);
    for (const nn::NamedParameter& p : model.parameters()) {
        const bool scalar =
            p.parameter.value().numel() == 1;  // steps and offsets; cheap enough for every step
        if (scalar && !std::isfinite(p.parameter.value().item())) {
            engine::run_error(p.name, " is not finite after the update", kRemedy);
        }
    }
    return result;
}

void check_state_finite(const nn::Model& model, const nn::Adamw& optimizer) {
    if (const std::string bad = parameter_not_finite(model); !bad.empty()) {
        engine::run_error("parameter ", bad, " has values that are not finite", kRemedy);
    }
    for (const auto& [name, moment] : optimizer.state()) {
        if (!is_finite(moment)) {
            engine::run_error("the optimizer's ", name, " has values that are not finite", kRemedy);
        }
    }
}

}  // namespace vvtq::apps
