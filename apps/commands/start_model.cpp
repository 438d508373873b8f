#include "apps/commands/start_model.h"

#include "apps/commands/model_setup.h"
#include "apps/commands/training_setup.h"
#include "engine/check.h"
#include "quant/attach.h"
#include "quant/calibrate.h"

namespace vvtq::apps {
namespace {

void require_trained(const nn::ModelConfig& config) {
    const std::string& why = nn::family_of(config).not_trained;
    if (why.empty()) return;
    engine::input_error("--model: ", config.name,
                        " can be evaluated, asked as a teacher and used by `vvtq predict`, "
                        "but not trained: ",
                        why, "; train the model without its second token");
}

/// The model of a checkpoint that is gone on with: quantizers and all.
std::unique_ptr<nn::Model> resume_model(Options& options, const TrainingData& data, const Compute& compute,
                                        const Checkpoint& resumed, std::vector<std::string>& notes) {
    const nn::ModelConfig config = resolve_config(options, &resumed, data.evaluation->classes());
    if (!options.run.evaluate) require_trained(config);
    auto model = make_model(config, compute, options.run.seed);
    const bool quantized = resumed.quantized(*model);
    if (!resumed.info()) {
        if (quantized != (options.command == "train")) {
            engine::input_error("--resume: ", resumed.path(), " holds a ",
                                quantized ? "quantized" : "full-precision",
                                " model; use --finetune for its weights");
        }
        adopt_stored_bits(options, resumed, *model);
    }
    if (quantized) attach_quantizers(*model, options.quantizer);
    const LoadReport report = resumed.load_parameters(*model, {.partial = options.run.allow_partial});
    require_finite(*model, resumed.path());
    if (resumed.info()) return model;
    for (std::string& line : report.table(resumed.path(), config.name)) notes.push_back(std::move(line));
    if (!options.run.evaluate) {
        notes.push_back("=> resumed as a model: moments and schedule start anew");
    }
    return model;
}

/// Steps belong to the bit widths for which they were learned.
void require_same_bits(const Checkpoint& finetuned, const QuantizerFlags& here) {
    if (!finetuned.info()) return;  // the file has `nbits`, or does not say
    const QuantizerFlags there = quantizer_flags(*finetuned.info(), finetuned.path());
    const auto differ = [](int a, int b) { return a > 0 && b > 0 && a <= 8 && b <= 8 && a != b; };
    if (differ(there.wbits, here.wbits) || differ(there.abits, here.abits) || there.bits != here.bits) {
        engine::input_error("--keep-steps: ", finetuned.path(), " was trained with ", bits_text(there),
                            ", not ", bits_text(here),
                            "; steps belong to their bit widths: leave the flag out");
    }
}

/// Loads the weights of --finetune, and with --keep-steps its steps.
void finetune(const Options& options, const Checkpoint& finetuned, nn::Model& model,
              std::vector<std::string>& notes) {
    const bool keep = options.run.keep_steps, quantized = finetuned.quantized(model);
    if (keep && !quantized) {
        engine::input_error("--keep-steps: ", finetuned.path(), " has no steps; leave the flag out");
    }
    if (keep) require_same_bits(finetuned, options.quantizer);
    const LoadReport report = finetuned.load_parameters(model, {.steps = keep,
                                                                .missing_steps = keep,
                                                                .other_classes = !options.run.evaluate,
                                                                .other_size = true,
                                                                .partial = options.run.allow_partial});
    require_finite(model, finetuned.path());
    for (std::string& line : report.table(finetuned.path(), model.config().name))
        notes.push_back(std::move(line));
    if (quantized && !keep) {
        notes.push_back("=> the steps of " + finetuned.path() + " are left out: only its weights are taken");
    }
}

/// --head-wise changes nothing where no quantizer has a step for each head.
void require_head_steps(const QuantizerFlags& flags, nn::Model& model) {
    if (!flags.head_wise) return;
    for (const auto& [path, slot] : quant::slots(model)) {
        if (slot->get() != nullptr && slot->step_heads() > 0) return;
    }
    engine::input_error("--head-wise: has no effect on ", model.config().name,
                        ", whose attention has no steps of heads; leave it out");
}

}  // namespace

std::unique_ptr<nn::Model> build_model(Options& options, const TrainingData& data, const Compute& compute,
                                       const Checkpoint* resumed, std::vector<std::string>& notes) {
    if (options.run.allow_partial && options.run.finetune.empty() && resumed == nullptr) {
        engine::input_error("--allow-partial: needs a checkpoint; name one with --finetune");
    }
    if (resumed != nullptr) {
        if (!options.run.finetune.empty()) {
            notes.push_back("=> --finetune is not read: " + resumed->path() + " holds all weights");
        }
        return resume_model(options, data, compute, *resumed, notes);
    }
    std::optional<Checkpoint> finetuned;
    if (!options.run.finetune.empty()) finetuned.emplace(options.run.finetune, "--finetune");
    const nn::ModelConfig config = resolve_config(options, finetuned ? &*finetuned : nullptr,
                                                  data.evaluation->classes(), !options.run.evaluate);
    if (!options.run.evaluate) require_trained(config);
    auto model = make_model(config, compute, options.run.seed);
    if (finetuned && finetuned->quantized(*model) && options.run.evaluate) {
        engine::input_error("--finetune: ", finetuned->path(), " is quantized; use --resume");
    }
    if (options.command == "train") attach_quantizers(*model, options.quantizer);
    if (finetuned) finetune(options, *finetuned, *model, notes);
    if (options.command == "train") {
        notes.push_back(
            options.run.keep_steps
                ? "=> step sizes of the checkpoint are kept, others start from a batch of training pictures"
                : "=> step sizes start from the weights and from a batch of training pictures");
        require_head_steps(options.quantizer, *model);
        const TrainingOptions training = training_options(options, data, config.img_size);
        const nn::Tensor pictures = calibration_pictures(data, training.training, compute);
        try {
            quant::calibrate_weights(*model, quant::Ready::keep);
            quant::calibrate_activations(*model, pictures, quant::Ready::keep);
        } catch (const engine::OutOfMemory&) {
            throw;
        } catch (const engine::Error& error) {
            if (!finetuned) throw;
            engine::input_error("with the weights of '", data::printable(finetuned->path()), "' ",
                                error.what(), "; name another file");
        }
    }
    return model;
}

}  // namespace vvtq::apps
