#include "apps/training/checkpoint.h"

#include <algorithm>
#include <set>

#include "apps/training/packed_file.h"
#include "data/elements.h"
#include "engine/check.h"
#include "quant/attach.h"
#include "quant/weight_pass.h"

namespace vvtq::apps {
namespace {

data::TensorBytes bytes_of(const std::string& name, const nn::Tensor& tensor) {
    const engine::DType dtype = tensor.dtype();
    return {name,
            dtype == engine::DType::f64 ? "F64" : (dtype == engine::DType::u8 ? "U8" : "F32"),
            tensor.shape().vec(),
            {static_cast<const uint8_t*>(tensor.raw()), tensor.bytes()}};
}

}  // namespace

void save_checkpoint(const std::string& path, const CheckpointInfo& info, const nn::Model& model,
                     const nn::Adamw& optimizer, const quant::OscillationTracker* oscillation) {
    std::vector<data::TensorBytes> tensors;
    std::vector<nn::Tensor> on_host;  // the bytes are written from here
    const auto add = [&](const std::string& name, const nn::Tensor& tensor) {
        on_host.push_back(tensor.to(engine::Device::cpu));
        tensors.push_back(bytes_of(name, on_host.back()));
    };
    for (const nn::NamedParameter& p : model.parameters()) add(p.name, p.parameter.value());
    for (const auto& [name, buffer] : model.buffers()) add(name, buffer);
    const auto add_state = [&](const auto& state) {
        for (const auto& [name, tensor] : state) add(std::string(data::kOptimizerPrefix) + name, tensor);
    };
    add_state(optimizer.state());
    if (oscillation != nullptr) add_state(oscillation->state());
    data::write_safetensors(path, tensors, to_metadata(info));
}

Checkpoint::Checkpoint(const std::string& path, const std::string& flag)
    : path_(path), flag_(flag), file_(path) {
    if (!is_checkpoint(file_.metadata())) return;
    if (is_packed(file_.metadata())) unpack(file_, path);
    info_ = from_metadata(file_.metadata(), path);
    if (info_->checked && !file_.has_checksums()) {
        engine::input_error(path,
                            " is damaged: its checksums are missing; use a copy of the file or an earlier "
                            "checkpoint");
    }
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

std::optional<nn::ModelConfig> Checkpoint::model_config() const {
    return info_ ? std::optional(info_->model) : std::nullopt;
}

bool Checkpoint::quantized(nn::Model& model) const {
    const std::set<std::string> names = quant::quantizer_state_names(model);
    return (info_ && info_->quantized) ||
           std::any_of(names.begin(), names.end(), [&](const auto& name) { return file_.contains(name); });
}

std::string Checkpoint::misfits(const nn::ModelConfig& config) const {
    const auto model = nn::make_shapes(config, engine::DType::f32);
    return StateLoad(file_, path_, *model, {.steps = false}).report().misfits();
}

namespace {

/// A weight's codes in a file, and whose they are.
struct StoredCodes {
    nn::QuantizerSlot* slot;
    std::function<std::vector<int8_t>()> codes;
};

/// By the memory of the weights; empty where the file lacks those of one.
std::map<const void*, StoredCodes> stored_codes(const StateLoad& load, nn::Model& model) {
    std::map<const void*, StoredCodes> found;
    for (const auto& [path, slot] : quant::slots(model)) {
        if (slot->values() != nn::Values::weight || slot->idle()) continue;
        if (slot->get() == nullptr) return {};
        const auto codes = load.codes(path + ".weight", slot->get()->describe().bits);
        if (!codes) return {};
        found[slot->weight().value().memory_id()] = {slot, codes};
    }
    return found;
}

}  // namespace

LoadReport Checkpoint::load_parameters(nn::Model& model, const LoadRules& rules) const {
    const StateLoad load(file_, path_, model, rules);
    const LoadReport& report = load.report();
    if (!report.complete() && !rules.partial) {
        engine::input_error(flag_, ": ", path_, " does not fit ", model.config().name, ": ",
                            report.sorted_misfits(),
                            "; name a checkpoint of this model or change `model` and its sizes");
    }
    if (report.loaded.empty() && report.converted.empty()) {
        engine::input_error(flag_, ": ", path_, " has nothing of ", model.config().name,
                            "; name a checkpoint of this model");
    }
    const auto fill = [&load](nn::NamedParameter& p) {
        const nn::Tensor& value = p.parameter.value();
        const auto stored = load.tensor(p.name, value.shape(), value.dtype());
        if (stored) p.parameter.set_value(stored->to(value.device()));
    };
    std::map<const void*, StoredCodes> codes;  // by the weights' memory
    if (rules.codes) codes = stored_codes(load, model);
    std::vector<nn::NamedParameter> weights;  // of these
    for (nn::NamedParameter& p : model.parameters()) {
        codes.count(p.parameter.value().memory_id()) != 0 ? weights.push_back(p) : fill(p);
    }
    for (const auto& [name, buffer] : model.buffers()) {
        const auto stored = load.tensor(name, buffer.shape(), buffer.dtype());
        if (stored) engine::kernels(buffer.device()).copy(stored->to(buffer.device()), buffer);
    }
    for (const auto& [path, slot] : quant::slots(model)) {
        if (slot->get() != nullptr && load.complete(path)) slot->get()->state_loaded();
    }
    quant::WeightPass* pass = quant::weight_pass_of(model);
    if (pass != nullptr && quant::has_integer_products(model)) {
        for (const auto& [memory, stored] : codes) pass->keep_codes(*stored.slot, stored.codes());
    } else {
        for (nn::NamedParameter& p : weights) fill(p);
    }
    return report;
}

std::string Checkpoint::stored_state(const std::string& name, const engine::Shape& shape) const {
    const std::string stored = std::string(data::kOptimizerPrefix) + name;
    if (!file_.contains(stored)) {
        engine::input_error(flag_, ": ", path_, " has no ", stored,
                            "; name a file with the moments of its run, or take its weights with "
                            "`finetune`");
    }
    if (file_.entry(stored).shape != shape.vec()) {
        engine::input_error(flag_, ": ", path_, " has ", stored, " ",
                            data::shape_text(file_.entry(stored).shape), " instead of ", shape.str(),
                            "; name another file");
    }
    return stored;
}

void Checkpoint::load_optimizer(nn::Adamw& optimizer) const {
    VVTQ_CHECK(info_.has_value(), path_, " has no record of a run");
    std::vector<std::pair<std::string, nn::Tensor>> state;
    for (const auto& [name, moment] : optimizer.state()) {
        const std::vector<double> values = file_.read<double>(stored_state(name, moment.shape()));
        state.emplace_back(name, nn::Tensor::from(values, moment.shape(), moment.dtype()));
    }
    optimizer.load_state(state, info_->step);
}

void Checkpoint::load_oscillation(quant::OscillationTracker& oscillation) const {
    for (const auto& [name, tensor] : oscillation.state()) {
        const std::string stored = stored_state(name, tensor.shape());
        const nn::Tensor host(tensor.shape(), tensor.dtype());
        const std::vector<float> values = file_.read<float>(stored);
        if (tensor.dtype() == engine::DType::u8) {
            std::ranges::transform(values, host.data<uint8_t>(), [](float value) {
                return static_cast<uint8_t>(value >= 0 && value <= 255 ? value : 255.0f);
            });
        } else {
            std::ranges::copy(values, host.data<float>());
        }
        engine::kernels(tensor.device()).copy(host.to(tensor.device()), tensor);
    }
    try {
        oscillation.state_loaded();
    } catch (const engine::Error& error) {
        engine::input_error(flag_, ": ", path_, " is damaged: ", error.what());
    }
}

}  // namespace vvtq::apps
