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
    : path_(path),
      flag_(flag),
      file_(path),
      names_([this](const auto& name) { return file_.contains(name); }) {
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
    std::set<std::string> used;  // names of the file
    const std::set<std::string> steps = ignore_steps ? quant::quantizer_state_names(model) : used;
    std::set<const void*> found;  // memory of tensors under one of their names
    for (const auto& [name, value] : state) {
        const auto place = names_.place(name);
        if (!place) continue;
        used.insert(place->name);
        found.insert(value.memory_id());
    }
    Difference odd;
    for (const auto& [name, value] : state) {
        const auto shape = shape_of(name);
        if (!shape) {
            if (found.count(value.memory_id()) == 0) odd.missing.push_back(name);
        } else if (*shape != value.shape().vec() && !(shape->empty() && value.numel() == 1)) {
            odd.misshapen.push_back(name + " " + data::shape_text(*shape) + " instead of " +
                                    value.shape().str());
        }
    }
    for (const auto& [name, entry] : file_.entries()) {
        const bool known = name.starts_with(kOptimizer) || nn::StateNames::is_constant(name) ||
                           used.count(name) != 0 || steps.count(name) != 0;
        if (!known) odd.left_over.push_back(name);
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

std::optional<std::vector<int64_t>> Checkpoint::shape_of(const std::string& name) const {
    const auto place = names_.place(name);
    if (!place) return std::nullopt;
    std::vector<int64_t> shape = file_.entry(place->name).shape;
    if (place->parts > 1 && !shape.empty() && shape[0] % place->parts == 0) shape[0] /= place->parts;
    return shape;
}

nn::Tensor Checkpoint::tensor(const std::string& name, const engine::Shape& shape,
                              engine::DType dtype) const {
    const auto place = names_.place(name);
    VVTQ_CHECK(place.has_value(), path_, " has no ", name);
    const nn::Tensor tensor(shape, dtype);
    const auto fill = [&]<typename T>(T* to) {
        const std::vector<T> values = file_.read<T>(place->name);
        VVTQ_CHECK(static_cast<int64_t>(values.size()) == place->parts * tensor.numel(), name, " ",
                   shape.str());
        std::copy_n(values.begin() + place->part * tensor.numel(), tensor.numel(), to);
    };
    if (dtype == engine::DType::f64) {
        fill(tensor.data<double>());
    } else {
        fill(tensor.data<float>());
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
        if (!names_.place(p.name)) continue;  // it has its value from its other name
        const nn::Tensor& value = p.parameter.value();
        p.parameter.set_value(tensor(p.name, value.shape(), value.dtype()).to(value.device()));
    }
    for (const auto& [name, buffer] : model.buffers()) {
        const nn::Tensor stored = tensor(name, buffer.shape(), buffer.dtype());
        engine::kernels(buffer.device()).copy(stored.to(buffer.device()), buffer);
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
        state.emplace_back(name, tensor(stored, moment.shape(), moment.dtype()));
    }
    optimizer.load_state(state, info_->step);
}

}  // namespace vvtq::apps
