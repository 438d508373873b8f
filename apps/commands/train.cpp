// `vvtq pretrain` and `vvtq train`: from flags to a model and data, then the trainer.
#include <iostream>
#include <nlohmann/json.hpp>
#include <set>

#include "apps/commands/commands.h"
#include "apps/commands/model_setup.h"
#include "apps/commands/training_setup.h"
#include "apps/training/evaluate.h"
#include "apps/training/interrupt.h"
#include "apps/training/run_folder.h"
#include "apps/training/trainer.h"
#include "quant/attach.h"
#include "quant/calibrate.h"

namespace vvtq::apps {
namespace {

/// Makes flags and the checkpoint to resume from agree, or throws naming what does not.
void agree_with(const Checkpoint& resumed, Options& options) {
    if (!resumed.info()) {
        engine::input_error("--resume: ", resumed.path(),
                            " was not written by vvtq; use --finetune for its weights");
    }
    const CheckpointInfo& info = *resumed.info();
    const auto recipe = checked_recipe(info.recipe, info.command, resumed.path());
    if (options.run.evaluate) {
        if (!info.quantized && has_low_bits(options.quantizer)) {
            engine::input_error("--resume: ", resumed.path(),
                                " holds a full-precision model; use --finetune with --wbits");
        }
        if (info.quantized) {
            options.adopt_recipe(recipe, resumed.path(),
                                 {"--wbits", "--abits", "--fixed-scale", "--head-wise"});
        }
        return;
    }
    if (info.command != options.command) {
        engine::input_error("--resume: ", resumed.path(), " was written by `vvtq ", info.command,
                            "`; use --finetune to start from its weights");
    }
    if (options.given("--start-epoch")) {
        engine::input_error("--start-epoch: --resume goes on at the checkpoint's epoch ", info.epoch,
                            "; leave it out");
    }
    options.adopt_recipe(recipe, resumed.path());
}

/// Several crops of a picture need labels of its crops.
void settle_crops(Options& options) {
    if (options.run.evaluate) {
        options.labels.num_crops = 1;
        return;
    }
    if (!options.labels.path.empty()) return;
    if (options.given("--num_crops") && options.labels.num_crops != 1) {
        engine::input_error(
            "--num_crops: needs the labels of --softlabel_path; name a file made by `vvtq softlabel`");
    }
    options.labels.num_crops = 1;
}

void require_same_data(const Checkpoint& resumed, const TrainingData& data, const Options& options) {
    const CheckpointInfo& info = *resumed.info();
    if (info.dataset != data.train->fingerprint()) {
        engine::input_error("--data: ", resumed.path(), " was trained on other pictures than ",
                            data.train->name(), "; name the same data set");
    }
    if (info.labels != data.labels_fingerprint()) {
        if (options.labels.path.empty()) {
            engine::input_error("--softlabel_path: missing; ", resumed.path(),
                                " was trained with a label file: name the same");
        }
        engine::input_error("--softlabel_path: ", resumed.path(), " was trained ",
                            info.labels == 0 ? "without" : "with another", " label file, not with '",
                            options.labels.path, "'; use the same");
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

/// A model with its start values, from a checkpoint where one is named. What the log should say of it is
/// added to `notes`.
std::unique_ptr<nn::Model> build_model(const Options& options, const TrainingData& data,
                                       const Compute& compute, const Checkpoint* resumed,
                                       std::vector<std::string>& notes) {
    std::optional<Checkpoint> finetuned;
    if (!options.run.finetune.empty() && resumed == nullptr) {
        finetuned.emplace(options.run.finetune, "--finetune");
    } else if (!options.run.finetune.empty()) {
        notes.push_back("=> --finetune is not read: " + resumed->path() + " holds all weights");
    }
    const Checkpoint* source = resumed != nullptr ? resumed : finetuned ? &*finetuned : nullptr;
    const nn::ModelConfig config = resolve_config(options, source, data.evaluation->classes());
    auto model = make_model(config, compute, options.run.seed);
    if (finetuned && finetuned->quantized(*model) && options.run.evaluate) {
        engine::input_error("--finetune: ", finetuned->path(), " is quantized; use --resume");
    }
    if (resumed != nullptr) {
        if (resumed->info()->quantized) attach_quantizers(*model, options.quantizer);
        resumed->load_parameters(*model, false);
        require_finite(*model, resumed->path());
        return model;
    }
    if (finetuned) {
        finetuned->load_parameters(*model, true);
        require_finite(*model, finetuned->path());
        if (finetuned->quantized(*model)) {
            notes.push_back("=> the steps of " + finetuned->path() +
                            " are left out: only its weights are taken");
        }
    }
    if (options.command == "train") {
        attach_quantizers(*model, options.quantizer);
        notes.push_back("=> step sizes start from the weights and from a batch of training pictures");
        require_head_steps(options.quantizer, *model);
        const TrainingOptions training = training_options(options, data, config.img_size);
        const nn::Tensor pictures = calibration_pictures(data, training.training, compute);
        try {
            quant::calibrate_weights(*model);
            quant::calibrate_activations(*model, pictures);
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

CheckpointInfo start_info(const Options& options, const TrainingData& data, const nn::Model& model,
                          const Checkpoint* resumed) {
    CheckpointInfo info;
    if (resumed != nullptr) {
        info = *resumed->info();
    } else {
        info.epoch = options.optimizer.start_epoch;
    }
    info.command = options.command;
    info.model = model.config();
    info.quantized = options.command == "train";
    info.recipe = options.recipe();
    info.dataset = data.train->fingerprint();
    info.class_names = data.train->class_names();
    info.labels = data.labels_fingerprint();
    return info;
}

/// What is trained or measured, and what is probably not meant by it.
void add_summary(const Options& options, const TrainingData& data, const nn::Model& model,
                 std::vector<std::string>& notes) {
    const bool measures = options.run.evaluate;
    const bool quantized = options.command == "train" && (has_low_bits(options.quantizer) || !measures);
    int64_t parameters = 0;
    std::set<const void*> counted;  // a block of SReT has two names
    for (const nn::NamedParameter& p : model.parameters()) {
        if (counted.insert(p.parameter.value().raw()).second) parameters += p.parameter.shape().numel();
    }
    notes.push_back(engine::concat("=> model ", model.config().name, ", ", parameters, " parameters, ",
                                   quantized ? bits_text(options.quantizer) : "full precision",
                                   options.quantizer.reg && !measures ? " with the bin regularizer" : ""));
    std::string pictures = engine::concat(data.evaluation->size(), " evaluation images");
    if (!measures) pictures = engine::concat(data.train->size(), " training images, ", pictures);
    notes.push_back(engine::concat("=> data ", (measures ? data.evaluation : data.train)->name(), ": ",
                                   pictures, ", ", data.evaluation->classes(), " classes"));
    if (measures) return;
    if (options.command == "train" && !has_low_bits(options.quantizer)) {
        notes.push_back(
            "=> warning: only the first and the last layer are quantized, to 8 bits: --wbits and --abits ask "
            "for floats");
    }
    if (options.optimizer.warmup_epochs >= options.optimizer.epochs) {
        notes.push_back(engine::concat("=> warning: --warmup-epochs ", options.optimizer.warmup_epochs,
                                       " is not below --epochs ", options.optimizer.epochs,
                                       ": the learning rate begins at ", options.optimizer.warmup_lr,
                                       " and never reaches ", options.optimizer.lr));
    }
}

int measure(const Options& options, const TrainingData& data, const Compute& compute, nn::Model& model,
            const std::vector<std::string>& notes, RunLog& log) {
    if (!options.run.log.empty()) log.open(options.run.log);
    for (const std::string& note : notes) log.line(note);
    const TrainingOptions training = training_options(options, data, model.config().img_size);
    const auto accuracy =
        evaluate(model, *data.evaluation, training.evaluation, compute, log, training.print_freq);
    if (!accuracy) {
        std::cerr << "vvtq train: stopped by " << interrupt_name() << " before all pictures were measured"
                  << std::endl;
    }
    return accuracy ? 0 : 1;
}

}  // namespace

int command_train(Options& options) {
    install_interrupt_handler();
    std::optional<Checkpoint> resumed;
    if (!options.run.resume.empty()) {
        resumed.emplace(options.run.resume, "--resume");
        agree_with(*resumed, options);
    } else if (options.run.evaluate && options.run.finetune.empty()) {
        engine::input_error("--evaluate: name a checkpoint with --resume, or weights with --finetune");
    }
    if (!resumed) check_effects(options);
    settle_crops(options);
    const Compute compute = pick_compute(options.run);
    const TrainingData data = open_training_data(options);
    if (resumed && !options.run.evaluate) require_same_data(*resumed, data, options);
    const Checkpoint* source = resumed ? &*resumed : nullptr;
    std::vector<std::string> notes;
    const auto model = build_model(options, data, compute, source, notes);
    add_summary(options, data, *model, notes);
    if (options.run.evaluate && resumed) {
        const std::string warning = other_classes_warning(*resumed, *data.evaluation);
        if (!warning.empty()) notes.push_back(warning);
    }
    RunLog log;
    if (options.run.evaluate) return measure(options, data, compute, *model, notes, log);
    const TrainingOptions training = training_options(options, data, model->config().img_size);
    Trainer trainer(training, data, compute, *model, start_info(options, data, *model, source), source, log);
    const std::string best = resumed ? best_to_bring_along(*resumed, options.run.save_dir, notes) : "";
    make_folder(options.run.save_dir);  // nothing is written before all input was found good
    const std::string& path = options.run.log;
    log.open(path.empty() ? path_in(options.run.save_dir, options.command + ".log") : path);
    if (data.labels && !data.labels->note().empty()) notes.push_back(data.labels->note());
    for (const std::string& note : notes) log.line(note);
    log.line("=> " + engine::runtime(compute.device).description() + ", " + options.run.precision);
    if (!best.empty()) copy_file(best, path_in(options.run.save_dir, kBestCheckpoint));
    log.metrics({{"kind", "start"},
                 {"command", options.command},
                 {"model", model->config().name},
                 {"epoch", trainer.info().epoch},
                 {"step", trainer.info().step},
                 {"flags", options.recipe()}});
    switch (trainer.run()) {
        case Outcome::finished:
            log.line("=> done: " + trainer.checkpoint_path());
            return 0;
        case Outcome::step_limit:
            log.line("=> --max-steps reached: " + trainer.checkpoint_path());
            return 0;
        case Outcome::interrupted:
            std::cerr << "vvtq " << options.command << ": stopped by " << interrupt_name() << " after step "
                      << trainer.info().step << "; go on with the same flags and --resume "
                      << trainer.checkpoint_path() << std::endl;
            return 1;
    }
    return 1;
}

}  // namespace vvtq::apps
