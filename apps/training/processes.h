// processes: those that train together, as the training sees them; without a job it is one.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/communicator.h"
#include "nn/module.h"
#include "nn/optimizer.h"
#include "quant/oscillation.h"

namespace vvtq::apps {

struct Processes {
    int rank = 0, size = 1;
    engine::Communicator* communicator = nullptr;  // null: this process alone
    /// The texts of all processes by rank.
    engine::ExchangeText exchange = [](const std::string& own) { return std::vector<std::string>{own}; };
    /// Says that this process gets on; `patient`: the next part may take long.
    std::function<void(bool patient)> progress = [](bool) {};
    /// Says that this process waits for the others, or no longer.
    std::function<void(bool on)> waiting = [](bool) {};

    /// The one that writes files and log.
    bool first() const { return rank == 0; }
};

/// Every process takes the running statistics of the first one, which alone keeps them where a batch has
/// several shards.
void share_buffers(const nn::Module& model, const Processes& processes);
/// Every process takes all parameters and buffers of the first one.
void share_parameters(const nn::Module& model, const Processes& processes);
/// Likewise the optimizer's moments, and what oscillation is known by; the latter may be null.
void share_state(const nn::Adamw& optimizer, const quant::OscillationTracker* oscillation,
                 const Processes& processes);

}  // namespace vvtq::apps
