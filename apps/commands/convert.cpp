// `vvtq convert`: a checkpoint in another container, or with another program's names.
#include <cstring>
#include <iostream>
#include <set>

#include "apps/commands/commands.h"
#include "apps/commands/model_setup.h"
#include "apps/training/torch_checkpoint.h"
#include "apps/training/value_text.h"
#include "data/elements.h"
#include "engine/check.h"
#include "quant/attach.h"

namespace vvtq::apps {
namespace {

constexpr auto kWidths = static_cast<size_t>(kStepWidths);

StoredTensor stored(const std::string& name, const nn::Tensor& tensor) {
    const auto* bytes = static_cast<const uint8_t*>(tensor.raw());
    return {name,
            tensor.dtype() == engine::DType::f64 ? "F64" : "F32",
            tensor.shape().vec(),
            {bytes, bytes + tensor.bytes()}};
}

StoredTensor scalar(const std::string& name, float value) {
    StoredTensor tensor{name, "F32", {1}, data::Bytes(sizeof value)};
    std::memcpy(tensor.bytes.data(), &value, sizeof value);
    return tensor;
}

/// All tensors as they are.
std::vector<StoredTensor> copied(const data::StateFile& file, bool drop_optimizer) {
    std::vector<StoredTensor> tensors;
    for (const auto& [name, entry] : file.entries()) {
        if (drop_optimizer && name.starts_with(data::kOptimizerPrefix)) continue;
        tensors.push_back({entry.stored, entry.dtype, entry.shape, file.bytes(name)});
    }
    return tensors;
}

/// The state of a model whose tensors came from `file`: its own, and the moments of its parameters. Where
/// `published`, the steps have an entry for each bit width, with `nbits` and `init_state` beside them.
class ModelState {
  public:
    ModelState(nn::Model& model, const data::StateFile& file, bool published)
        : model_(model), file_(file), published_(published) {
        for (const auto& [path, slot] : quant::slots_by_path(model)) {
            if (slot->get() == nullptr) continue;
            const nn::Quantizer& quantizer = *slot->get();
            const int bits = quantizer.describe().bits;
            for (const std::string& state : quantizer.state_names()) bits_[path + "." + state] = bits;
            if (!published || quantizer.state_names().empty()) continue;
            extras_.push_back(scalar(path + ".nbits", static_cast<float>(bits)));
            extras_.push_back(scalar(path + ".init_state", quantizer.ready() ? 1.0F : 0.0F));
        }
    }

    std::vector<StoredTensor> tensors(bool drop_optimizer) const {
        std::vector<StoredTensor> all;
        for (const nn::NamedParameter& p : model_.parameters()) {
            all.push_back(widened(p.name, stored(p.name, p.parameter.value()), false));
        }
        for (const auto& [name, buffer] : model_.buffers()) all.push_back(stored(name, buffer));
        all.insert(all.end(), extras_.begin(), extras_.end());
        if (drop_optimizer) return all;
        std::set<const void*> seen;  // a shared parameter has its moments under its first name
        for (const nn::NamedParameter& p : model_.parameters()) {
            if (!seen.insert(p.parameter.value().raw()).second) continue;
            for (const char* moment : {".exp_avg", ".exp_avg_sq"}) {
                const std::string name = std::string(data::kOptimizerPrefix) + p.name + moment;
                if (!file_.contains(name)) continue;
                const data::StateFile::Entry& entry = file_.entry(name);
                all.push_back(widened(p.name, {name, entry.dtype, entry.shape, file_.bytes(name)}, true));
            }
        }
        return all;
    }

  private:
    /// A step, offset or moment of one with an entry for each width, or with the entry of its own width.
    StoredTensor widened(const std::string& parameter, StoredTensor tensor, bool moment) const {
        const auto bits = bits_.find(parameter);
        if (bits == bits_.end() || bits->second < kLeastStepBits) return tensor;
        const size_t size = data::element_size(tensor.dtype);
        const auto entry = static_cast<size_t>(bits->second - kLeastStepBits);
        if (published_ && tensor.bytes.size() == size) {
            data::Bytes wide(kWidths * size);  // the others start from the same step, their moments from 0
            for (size_t i = 0; i < kWidths; ++i) {
                if (!moment || i == entry) std::memcpy(&wide[i * size], tensor.bytes.data(), size);
            }
            tensor.bytes = std::move(wide);
            tensor.shape = {kStepWidths};
        } else if (!published_ && tensor.bytes.size() == kWidths * size) {
            const auto begin = tensor.bytes.begin() + static_cast<std::ptrdiff_t>(entry * size);
            tensor.bytes = data::Bytes(begin, begin + static_cast<std::ptrdiff_t>(size));
            tensor.shape = {1};
        }
        return tensor;
    }

    nn::Model& model_;
    const data::StateFile& file_;
    bool published_;
    std::map<std::string, int> bits_;  // by the names of states
    std::vector<StoredTensor> extras_;
};

void write(const std::string& path, const std::vector<StoredTensor>& tensors, const TorchExtras& extras) {
    if (data::is_torch_path(path)) {
        const data::Bytes bytes = torch_checkpoint(tensors, extras);
        data::AtomicFile file(path);
        file.write(bytes.data(), bytes.size());
        file.commit();
        return;
    }
    std::vector<data::TensorBytes> views;
    for (const StoredTensor& t : tensors) views.push_back({t.name, t.dtype, t.shape, t.bytes});
    data::write_safetensors(path, views, extras.metadata);
}

TorchExtras extras_of(const Checkpoint& checkpoint) {
    TorchExtras extras;
    extras.metadata = checkpoint.file().metadata();
    if (!checkpoint.info()) return extras;
    const CheckpointInfo& info = *checkpoint.info();
    extras.epoch = info.epoch;
    extras.step = info.step;
    extras.arch = info.model.name;
    extras.best_acc1 = info.best_acc1;
    const auto number = [&](const char* flag, double& value) {
        const auto text = info.recipe.find(flag);
        if (text != info.recipe.end()) parse_text(text->second, value);
    };
    number("lr", extras.lr);
    number("weight-decay", extras.weight_decay);
    return extras;
}

}  // namespace

int command_convert(Options& options) {
    const ConvertFlags& flags = options.convert;
    if (flags.input.empty() || flags.output.empty()) {
        engine::input_error("name the checkpoint to read and the file to write: vvtq convert IN OUT");
    }
    if (!data::is_torch_path(flags.output) && !flags.output.ends_with(".safetensors")) {
        engine::input_error("'", data::printable(flags.output),
                            "': the ending says what to write; use .safetensors or .pth");
    }
    const Checkpoint checkpoint(flags.input, "IN");
    TorchExtras extras = extras_of(checkpoint);
    std::vector<std::string> notes;
    std::vector<StoredTensor> tensors;
    if (options.model.name.empty()) {
        tensors = copied(checkpoint.file(), flags.drop_optimizer);
    } else {
        const auto& entries = checkpoint.file().entries();
        const bool doubles = std::any_of(entries.begin(), entries.end(),
                                         [](const auto& entry) { return entry.second.dtype == "F64"; });
        const engine::DType dtype = doubles ? engine::DType::f64 : engine::DType::f32;
        const auto model = load_model(options, checkpoint, 0, {engine::Device::cpu, dtype, dtype}, notes);
        const bool published = data::is_torch_path(flags.output);
        tensors = ModelState(*model, checkpoint.file(), published).tensors(flags.drop_optimizer);
        extras.arch = model->config().name;
        if (published) extras.metadata.clear();  // the tensors are no longer those that it describes
    }
    write(flags.output, tensors, extras);
    for (const std::string& note : notes) std::cout << note << std::endl;
    std::cout << "=> " << tensors.size() << " tensors: " << data::printable(flags.output) << std::endl;
    return 0;
}

}  // namespace vvtq::apps
