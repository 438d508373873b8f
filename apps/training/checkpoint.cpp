#include "apps/training/checkpoint.h"

#include <algorithm>
#include <set>

#include "data/elements.h"
#include "engine/check.h"
#include "quant/attach.h"

namespace vvtq::apps {
namespace {

constexpr std::string_view kOptimizer = "optimizer.";

data::TensorBytes bytes_of(const std::string& name, const nn::Tensor& tensor) {
    return {name,
            tensor.dtype() == engine::DType::f64 ? "F64" : "F32",
            tensor.shape().vec(),
            {static_cast<const uint8_t*>(tensor.raw()), tensor.bytes()}};
}

/// "a, b, c and 12 more".
std::string list(const std::vector<std::string>& names) {
    constexpr size_t kShown = 6;
    std::string text;
    for (size_t i = 0; i < std::min(kShown, names.size()); ++i) {
        text += (i == 0 ? "" : ", ") + data::printable(names[i]);
    }
    return names.size() <= kShown ? text : text + " and " + std::to_string(names.size() - kShown) + " more";
}

}  // namespace

void save_checkpoint(const std::string& path, const CheckpointInfo& info, const nn::Model& model,
                     const nn::Adamw& optimizer) {
    std::vector<data::TensorBytes> tensors;
    std::vector<nn::Tensor> on_host;  // the bytes are written from here
    const auto add = [&](const std::string& name, const nn::Tensor& tensor) {
        on_host.push_back(tensor.to(engine::Device::cpu));
        tensors.push_back(bytes_of(name, on_host.back()));
    };
    for (const nn::NamedParameter& p : model.parameters()) add(p.name, p.parameter.value());
    for (const auto& [name, buffer] : model.buffers()) add(name, buffer);
    for (const auto& [name, moment] : optimizer.state()) add(std::string(kOptimizer) + name, moment);
    data::write_safetensors(path, tensors, to_metadata(info));
}

Checkpoint::Checkpoint(const std::string& path, const std::string& flag)
    : path_(path), flag_(flag), file_(data::SafeTensors::open(path)) {
    if (is_checkpoint(file_.metadata())) {
        info_ = from_metadata(file_.metadata(), path);
        std::string odd;
        try {
            odd = misfits(info_->model);
        } catch (const engine::Error& error) {
            engine::input_error(path, " records a model that cannot be built: ", error.what());
        }
        if (!odd.empty()) {
            engine::input_error(path, ": its metadata describes another model than its tensors: ", odd,
                                "; name another file");
        }
    }
}

std::optional<nn::ModelConfig> Checkpoint::model_config() const {
    return info_ ? std::optional(info_->model) : std::nullopt;
}

bool Checkpoint::quantized(nn::Model& model) const {
    const std::set<std::string> names = quant::quantizer_state_names(model);
    return (info_ && info_->quantized) ||
           std::any_of(names.begin(), names.end(), [&](const auto& name) { return file_.contains(name); });
}

Checkpoint::Difference Checkpoint::difference(nn::Model& model, bool ignore_steps) const {
    std::vector<std::pair<std::string, nn::Tensor>> state;
    for (const nn::NamedParameter& p : model.parameters()) state.emplace_back(p.name, p.parameter.value());
    for (auto& buffer : model.buffers()) state.push_back(std::move(buffer));
    std::stable_partition(state.begin(), state.end(),
                          [](const auto& named) { return named.second.shape().rank() >= 2; });
    std::set<std::string> wanted;
    const std::set<std::string> steps = ignore_steps ? quant::quantizer_state_names(model) : wanted;
    std::set<const void*> found;  // memory of tensors under one of their names
    for (const auto& [name, value] : state) {
        wanted.insert(name);
        if (file_.contains(name)) found.insert(value.memory_id());
    }
    Difference odd;
    for (const auto& [name, value] : state) {
        const auto entry = file_.entries().find(name);
        if (entry == file_.entries().end()) {
            if (found.count(value.memory_id()) == 0) odd.missing.push_back(name);
        } else if (entry->second.shape != value.shape().vec()) {
            odd.misshapen.push_back(name + " " + data::shape_text(entry->second.shape) + " instead of " +
                                    value.shape().str());
        }
    }
    for (const auto& [name, entry] : file_.entries()) {
        if (!name.starts_with(kOptimizer) && wanted.count(name) == 0 && steps.count(name) == 0) {
            odd.left_over.push_back(name);
        }
    }
    return odd;
}

std::string Checkpoint::misfits(const nn::ModelConfig& config) const {
    const Difference odd = difference(*nn::make_shapes(config, engine::DType::f32), true);
    std::vector<std::string> texts;
    for (const std::string& name : odd.missing) texts.push_back(name + " is missing");
    texts.insert(texts.end(), odd.misshapen.begin(), odd.misshapen.end());
    for (const std::string& name : odd.left_over) {
        texts.push_back(name + " " + data::shape_text(file_.entry(name).shape) + " is not in the model");
    }
    return list(texts);
}

nn::Tensor Checkpoint::tensor(const std::string& name, engine::DType dtype) const {
    const nn::Tensor tensor(engine::Shape(file_.entry(name).shape), dtype);
    if (dtype == engine::DType::f64) {
        const std::vector<double> values = file_.read<double>(name);
        std::copy(values.begin(), values.end(), tensor.data<double>());
    } else {
        const std::vector<float> values = file_.read<float>(name);
        std::copy(values.begin(), values.end(), tensor.data<float>());
    }
    return tensor;
}

void Checkpoint::load_parameters(nn::Model& model, bool ignore_steps) const {
    const Difference odd = difference(model, ignore_steps);
    std::string text;
    for (const auto& [what, names] :
         {std::pair{"missing: ", &odd.missing}, std::pair{"other shapes: ", &odd.misshapen},
          std::pair{"not in the model: ", &odd.left_over}}) {
        if (!names->empty()) text += (text.empty() ? "" : "; ") + std::string(what) + list(*names);
    }
    if (!text.empty()) {
        engine::input_error(flag_, ": ", path_, " does not fit ", model.config().name, ": ", text,
                            "; name a checkpoint of this model or change `model` and its sizes");
    }
    for (nn::NamedParameter& p : model.parameters()) {
        if (!file_.contains(p.name)) continue;  // it has its value from its other name
        const nn::Tensor& value = p.parameter.value();
        p.parameter.set_value(tensor(p.name, value.dtype()).to(value.device()));
    }
    for (const auto& [name, buffer] : model.buffers()) {
        engine::kernels(buffer.device()).copy(tensor(name, buffer.dtype()).to(buffer.device()), buffer);
    }
    for (const auto& [path, slot] : quant::slots(model)) {
        if (slot->get() != nullptr) slot->get()->state_loaded();
    }
}

void Checkpoint::load_optimizer(nn::Adamw& optimizer) const {
    VVTQ_CHECK(info_.has_value(), path_, " has no record of a run");
    std::vector<std::pair<std::string, nn::Tensor>> state;
    for (const auto& [name, moment] : optimizer.state()) {
        const std::string stored = std::string(kOptimizer) + name;
        if (!file_.contains(stored)) {
            engine::input_error(flag_, ": ", path_, " has no ", stored,
                                "; name a checkpoint of an unfinished run");
        }
        if (file_.entry(stored).shape != moment.shape().vec()) {
            engine::input_error(flag_, ": ", path_, " has ", stored, " ",
                                data::shape_text(file_.entry(stored).shape), " instead of ",
                                moment.shape().str(), "; name another file");
        }
        state.emplace_back(name, tensor(stored, moment.dtype()));
    }
    optimizer.load_state(state, info_->step);
}

}  // namespace vvtq::apps
