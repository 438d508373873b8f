#include "apps/training/guards.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "nn/evaluation_mode.h"
#include "quant/attach.h"
#include "quant/bin_regularizer.h"
#include "quant/inspect/inspect.h"

namespace vvtq::apps {
namespace {

using Slots = std::vector<std::pair<std::string, nn::QuantizerSlot*>>;

/// What quantizers make of all their activations, where that is one value; nothing where it is more.
class Watched {
  public:
    explicit Watched(const Slots& slots) : slots_(slots) {
        for (const auto& [path, slot] : slots_) {
            if (slot->get() == nullptr || slot->values() == nn::Values::weight) continue;
            const bool one_bit = slot->get()->describe().bits == 1;
            if (one_bit && slot->values() == nn::Values::probability) continue;  // of one sign always
            slot->watch([this, path = path, quantizer = slot->get()](const nn::Tensor& x) {
                const auto one = quant::only_value(*quantizer, x);
                const auto [known, first] = values_.try_emplace(path, one);
                if (!first && known->second != one) known->second.reset();  // a block may run twice
            });
        }
    }
    ~Watched() {
        for (const auto& [path, slot] : slots_) slot->watch({});
    }
    Watched(const Watched&) = delete;
    Watched& operator=(const Watched&) = delete;

    std::optional<double> at(const std::string& path) const {
        const auto found = values_.find(path);
        return found == values_.end() ? std::nullopt : found->second;
    }

  private:
    const Slots& slots_;
    std::map<std::string, std::optional<double>> values_;
};

}  // namespace

void Guards::warn(const std::string& what, int64_t step, const std::string& layer, double value,
                  const std::string& text) {
    log_.line(engine::concat("=> warning: step ", step, ": ", text));
    log_.metrics({{"kind", "warning"}, {"what", what}, {"step", step}, {"layer", layer}, {"value", value}});
}

void Guards::see_loss(int epoch, int64_t step, double loss, RunningMeans& means) {
    constexpr double kFewest = 20, kMemory = 50;  // steps
    constexpr double kTimes = 2.0, kAbove = 1.0;  // a spike is above both
    const double usual = means.usual_loss;
    if (means.usual_steps >= kFewest && loss > kTimes * usual && loss > usual + kAbove &&
        told_.insert("loss " + std::to_string(epoch)).second) {
        warn("loss_spike", step, "", loss,
             engine::concat("the loss is ", loss, ", its mean of late ", usual,
                            " (loss spike); a smaller learning rate or clipped gradients may help"));
    }
    means.usual_steps += 1;
    means.usual_loss += (loss - usual) / std::min(means.usual_steps, kMemory);
}

void Guards::see_skipped(int64_t step, const std::string& reason) {
    constexpr int64_t kMost = 100;
    ++skipped_;
    if (++in_a_row_ >= kMost) {
        engine::run_error(kMost, " steps in a row were not finite, the last because ", reason,
                          "; a smaller `lr` may help");
    }
    const size_t detail = reason.rfind(": ");  // how many values, which differs from step to step
    if (!told_.insert("skipped " + reason.substr(0, detail)).second) return;
    warn("not_finite", step, reason, std::nan(""), "left out: " + reason);
}

void Guards::inspect(int64_t step, const nn::Tensor& pictures) {
    const Slots slots = quant::slots(model_);
    if (std::none_of(slots.begin(), slots.end(), [](const auto& s) { return s.second->get() != nullptr; })) {
        return;
    }
    Watched activations(slots);
    const nn::EvaluationMode evaluation(model_);
    quant::regularize(model_, false);
    const autograd::NoGrad off_tape;
    model_.forward(pictures);
    for (const auto& [path, slot] : slots) {
        nn::Quantizer* quantizer = slot->get();
        if (quantizer == nullptr || !quantizer->ready()) continue;
        const bool weight = slot->values() == nn::Values::weight;
        const char* of = weight ? "the weights of " : "";
        const std::vector<double> steps = quantizer->describe().scale;
        const auto least = std::min_element(steps.begin(), steps.end());
        constexpr double kRounded = 1 + 1e-6;  // of a float
        if (least != steps.end() && *least <= engine::kLeastStep * kRounded &&
            told_.insert("floor " + path + of).second) {
            warn("step_at_floor", step, path, *least,
                 engine::concat(of, path, weight ? " have" : " has", " a quantizer step at its floor, ",
                                *least, "; a smaller learning rate may help"));
        }
        const auto one =
            weight ? quant::only_value(*quantizer, slot->weight().value()) : activations.at(path);
        if (one && told_.insert("dead " + path + of).second) {
            warn("dead_quantizer", step, path, *one,
                 engine::concat(weight ? "all weights of " : "all values of ", path,
                                " have one code, which stands for ", *one, " (dead quantizer)"));
        }
    }
}

}  // namespace vvtq::apps
