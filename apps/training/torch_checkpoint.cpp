#include "apps/training/torch_checkpoint.h"

#include "data/state_file.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace {

using data::TorchTensor;
using data::TorchValue;
using Dict = TorchValue::Dict;
using List = TorchValue::List;

TorchValue text(std::string value) { return {std::move(value)}; }

TorchTensor torch_tensor(const StoredTensor& tensor) { return {tensor.dtype, tensor.shape, tensor.bytes}; }

/// A group of torch's AdamW.
Dict group(double lr, double weight_decay, List params, List names) {
    Dict dict;
    dict.push_back({text("lr"), TorchValue{lr}});
    dict.push_back({text("weight_decay"), TorchValue{weight_decay}});
    dict.push_back({text("betas"), TorchValue{List{{0.9}, {0.999}}}});
    dict.push_back({text("eps"), TorchValue{1e-8}});
    dict.push_back({text("amsgrad"), TorchValue{false}});
    dict.push_back({text("params"), TorchValue{std::move(params)}});
    dict.push_back({text("param_names"), TorchValue{std::move(names)}});
    return dict;
}

struct Moments {
    std::string parameter;
    const StoredTensor* exp_avg = nullptr;
    const StoredTensor* exp_avg_sq = nullptr;
    std::vector<std::pair<std::string, const StoredTensor*>> others;  // what else is kept of the parameter

    bool decays() const { return exp_avg->shape.size() >= 2 && !parameter.ends_with(".bias"); }
};

std::vector<Moments> moments_of(const std::vector<StoredTensor>& tensors) {
    std::vector<Moments> all;
    std::map<std::string, size_t> at;
    for (const StoredTensor& tensor : tensors) {
        if (!tensor.name.starts_with(data::kOptimizerPrefix)) continue;
        const size_t begin = data::kOptimizerPrefix.size(), dot = tensor.name.rfind('.');
        if (dot <= begin) continue;
        const std::string parameter = tensor.name.substr(begin, dot - begin),
                          kind = tensor.name.substr(dot + 1);
        const auto [place, made] = at.emplace(parameter, all.size());
        if (made) all.push_back({parameter, nullptr, nullptr, {}});
        Moments& moments = all[place->second];
        if (kind == "exp_avg" || kind == "exp_avg_sq") {
            (kind == "exp_avg" ? moments.exp_avg : moments.exp_avg_sq) = &tensor;
        } else {
            moments.others.emplace_back(kind, &tensor);
        }
    }
    for (const Moments& moments : all) {
        if (moments.exp_avg == nullptr || moments.exp_avg_sq == nullptr) {
            engine::input_error("the moments of ", data::printable(moments.parameter),
                                " are not complete; leave them out with `drop_optimizer`");
        }
    }
    return all;
}

}  // namespace

data::Bytes torch_checkpoint(const std::vector<StoredTensor>& tensors, const TorchExtras& extras) {
    Dict state, file;
    for (const StoredTensor& tensor : tensors) {
        if (tensor.name.starts_with(data::kOptimizerPrefix)) continue;
        state.push_back({text(tensor.name), TorchValue{torch_tensor(tensor)}});
    }
    file.push_back({text("epoch"), TorchValue{extras.epoch}});
    file.push_back({text("arch"), text(extras.arch)});
    file.push_back({text("state_dict"), TorchValue{std::move(state)}});
    file.push_back({text("best_acc1"), TorchValue{extras.best_acc1}});
    const auto steps = static_cast<float>(extras.step);
    const TorchTensor step{"F32", {}, {reinterpret_cast<const uint8_t*>(&steps), sizeof steps}};
    const std::vector<Moments> moments = moments_of(tensors);
    Dict optimizer_state;
    List groups;
    int64_t number = 0;
    for (const bool decays : {false, true}) {
        List params, names;
        for (const Moments& each : moments) {
            if (each.decays() != decays) continue;
            Dict entry;
            entry.push_back({text("step"), TorchValue{step}});
            entry.push_back({text("exp_avg"), TorchValue{torch_tensor(*each.exp_avg)}});
            entry.push_back({text("exp_avg_sq"), TorchValue{torch_tensor(*each.exp_avg_sq)}});
            for (const auto& [kind, tensor] : each.others) {
                entry.push_back({text(kind), TorchValue{torch_tensor(*tensor)}});
            }
            optimizer_state.push_back({TorchValue{number}, TorchValue{std::move(entry)}});
            params.push_back({number++});
            names.push_back(text(each.parameter));
        }
        groups.push_back(
            {group(extras.lr, decays ? extras.weight_decay : 0.0, std::move(params), std::move(names))});
    }
    if (!moments.empty()) {
        Dict optimizer;
        optimizer.push_back({text("state"), TorchValue{std::move(optimizer_state)}});
        optimizer.push_back({text("param_groups"), TorchValue{std::move(groups)}});
        file.push_back({text("optimizer"), TorchValue{std::move(optimizer)}});
    }
    if (!extras.metadata.empty()) {
        Dict metadata;
        for (const auto& [key, value] : extras.metadata) metadata.push_back({text(key), text(value)});
        file.push_back({text("vvtq"), TorchValue{std::move(metadata)}});
    }
    return data::write_torch({std::move(file)}, "checkpoint");
}

}  // namespace vvtq::apps
