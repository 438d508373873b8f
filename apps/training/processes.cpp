#include "apps/training/processes.h"

namespace vvtq::apps {

void share_buffers(const nn::Module& model, const Processes& processes) {
    if (processes.communicator == nullptr) return;
    for (const auto& [name, buffer] : model.buffers()) processes.communicator->broadcast(buffer, 0);
    processes.communicator->wait();
}

void share_parameters(const nn::Module& model, const Processes& processes) {
    if (processes.communicator == nullptr) return;
    for (const nn::NamedParameter& p : model.parameters()) {
        processes.communicator->broadcast(p.parameter.value(), 0);
    }
    share_buffers(model, processes);
}

void share_state(const nn::Adamw& optimizer, const quant::OscillationTracker* oscillation,
                 const Processes& processes) {
    if (processes.communicator == nullptr) return;
    const auto share = [&](const auto& state) {
        for (const auto& [name, tensor] : state) processes.communicator->broadcast(tensor, 0);
    };
    share(optimizer.state());
    if (oscillation != nullptr) share(oscillation->state());
    processes.communicator->wait();
}

}  // namespace vvtq::apps
