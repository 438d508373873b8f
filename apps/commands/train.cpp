// `vvtq pretrain` and `vvtq train`: from flags to a model and data, then the trainer.
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "apps/commands/commands.h"
#include "apps/commands/model_setup.h"
#include "apps/commands/start_model.h"
#include "apps/commands/training_setup.h"
#include "apps/launch/agreement.h"
#include "apps/launch/team.h"
#include "apps/training/evaluate.h"
#include "apps/training/interrupt.h"
#include "apps/training/run_folder.h"
#include "apps/training/trainer.h"
#include "apps/training/value_text.h"

namespace vvtq::apps {
namespace {

/// The checkpoint of --resume; nothing without it, and where `auto` finds none.
void open_resumed(Options& options, std::optional<Checkpoint>& resumed, std::vector<std::string>& notes) {
    std::string& path = options.run.resume;
    if (path.empty()) return;
    if (path != "auto") {
        resumed.emplace(path, "--resume");
        return;
    }
    open_newest(options.run.save_dir, "--resume", resumed, notes);
    path = resumed ? resumed->path() : "";
    if (!resumed && options.run.evaluate) {
        engine::input_error("--resume: there is no checkpoint in ", options.run.save_dir,
                            "; name the folder of a run with --save_checkpoint_path");
    }
    notes.push_back(resumed ? "=> --resume auto: going on from " + path
                            : "=> --resume auto: no checkpoint in " + options.run.save_dir +
                                  ", the run starts afresh");
}

/// Lets --epochs be more than in the checkpoint's `recipe`.
void raise_epochs(const Options& options, int epoch, std::map<std::string, std::string>& recipe,
                  std::vector<std::string>& notes) {
    const auto saved = recipe.find("epochs");
    int before = 0;
    if (!options.given("--epochs") || saved == recipe.end() || !parse_text(saved->second, before) ||
        options.optimizer.epochs <= before) {
        return;
    }
    saved->second = value_text(options.optimizer.epochs);
    notes.push_back(engine::concat("=> --epochs ", before, " becomes ", saved->second, ": from epoch ", epoch,
                                   " on the learning rate and the bin regularizer follow the schedule of ",
                                   saved->second, " epochs"));
}

/// Makes flags and the checkpoint to resume from agree, or throws naming what does not.
void agree_with(const Checkpoint& resumed, Options& options, std::vector<std::string>& notes) {
    if (!resumed.info()) return;  // it is resumed as a model
    if (options.run.allow_partial) {
        engine::input_error("--allow-partial: ", resumed.path(), " is resumed exactly; leave the flag out");
    }
    const CheckpointInfo& info = *resumed.info();
    auto recipe = checked_recipe(info.recipe, info.command, resumed.path());
    if (options.run.evaluate) {
        if (!info.quantized && has_low_bits(options.quantizer)) {
            engine::input_error("--resume: ", resumed.path(),
                                " holds a full-precision model; use --finetune with --wbits");
        }
        if (info.quantized) {
            options.adopt_recipe(recipe, resumed.path(),
                                 {"--wbits", "--abits", "--fixed-scale", "--head-wise", "--bits"});
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
    raise_epochs(options, info.epoch, recipe, notes);
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
    info.evaluation_crop = evaluation_crop(options);
    info.labels = data.labels_fingerprint();
    return info;
}

/// What is trained or measured, and what is probably not meant by it.
void add_summary(const Options& options, const TrainingData& data, const nn::Model& model,
                 std::vector<std::string>& notes) {
    const bool measures = options.run.evaluate;
    const bool quantized = options.command == "train" && (has_low_bits(options.quantizer) || !measures);
    notes.push_back(engine::concat("=> model ", model.config().name, ", ", parameter_count(model),
                                   " parameters, ",
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

/// What every process of a job must have in common.
std::map<std::string, std::string> common_values(const Options& options, const TrainingData& data,
                                                 const nn::Model& model, const CheckpointInfo& info) {
    std::map<std::string, std::string> values{
        {"the model", model.config().name},
        {"an evaluation set of size", value_text(data.evaluation->size())},
        {"labels with fingerprint", value_text(info.labels)},
        {"training images with fingerprint", value_text(info.dataset)},
        {"a start after step", value_text(info.step)},
        {"a start in epoch", value_text(info.epoch)},
        {"a start behind batch", value_text(info.batch)},
        {"a best accuracy of", value_text(info.best_acc1)}};
    for (const nn::Field& field : nn::family_of(model.config()).fields) {
        std::visit([&](const auto& size) { values["a model of " + field.name] = value_text(size); },
                   field.get(model.config()));
    }
    for (const auto& [name, value] : options.recipe()) values["--" + name] = value;
    const std::set<std::string> others{"--max-steps", "--save-every-steps", "--on-nan",
                                       "--buckets",   "--reduce-precision", "--evaluate"};
    for (const Flag& flag : options.flags) {
        if (others.count(flag.name) != 0) values[flag.name] = flag.get();
    }
    return values;
}

int measure(const Options& options, const TrainingData& data, const Compute& compute, nn::Model& model,
            const std::vector<std::string>& notes, RunLog& log, const Processes& processes) {
    install_interrupt_handler();
    if (!options.run.log.empty() && processes.first()) log.open(options.run.log);
    for (const std::string& note : notes) log.line(note);
    const TrainingOptions training = training_options(options, data, model.config().img_size, processes);
    data::LoaderOptions loading = training.evaluation;
    loading.device = compute.device;
    data::Loader loader(*data.evaluation, loading);
    const auto accuracy = evaluate(model, loader, compute, log, training.print_freq, processes);
    if (!accuracy && processes.first()) {
        std::cerr << "vvtq train: stopped by " << interrupt_name() << " before all pictures were measured"
                  << std::endl;
    }
    return accuracy && log.incomplete().empty() ? 0 : 1;
}

/// The line and the exit status of a run that ended.
int tell_end(Outcome outcome, const Options& options, const Trainer& trainer, RunLog& log,
             const Processes& processes) {
    if (outcome == Outcome::interrupted) {
        if (!processes.first()) return 1;
        std::cerr << "vvtq " << options.command << ": stopped by "
                  << (interrupted() ? interrupt_name() : "the signal of another process");
        if (trainer.saved()) {
            std::cerr << " after step " << trainer.info().step << "; go on with the same flags and --resume "
                      << trainer.checkpoint_path() << std::endl;
        } else {
            std::cerr << " before the first step" << std::endl;
        }
        return 1;
    }
    log.line((outcome == Outcome::finished ? "=> done: " : "=> --max-steps reached: ") +
             trainer.checkpoint_path());
    if (log.incomplete().empty()) return 0;
    std::cerr << "vvtq " << options.command << ": error: the run is done, but lines are missing in "
              << log.incomplete() << std::endl;
    return 1;
}

/// Files and log of a run that is about to begin; the first process has them.
void open_run(const Options& options, const TrainingData& data, const Compute& compute,
              const std::string& best, const Trainer& trainer, std::vector<std::string> notes,
              RunFolder& folder, RunLog& log, const Processes& processes) {
    folder.try_out(trainer.checkpoint_bytes());  // nothing is written before all input was found good
    const std::string& path = options.run.log;
    log.open(path.empty() ? path_in(options.run.save_dir, options.command + ".log") : path);
    if (data.labels && !data.labels->note().empty()) notes.push_back(data.labels->note());
    for (const std::string& note : notes) log.line(note);
    log.line("=> " + engine::runtime(compute.device).description() + ", " + options.run.precision);
    if (processes.communicator != nullptr) {
        log.line(engine::concat("=> ", processes.size, " processes, ", processes.communicator->description(),
                                ", ", options.data.batch_size / processes.size, " images each"));
    }
    if (!options.run.tensorboard.empty()) {
        log.open_events(options.run.tensorboard, trainer.info().step + 1);
    }
    if (!best.empty()) folder.bring_best(best);
    log.metrics({{"kind", "start"},
                 {"command", options.command},
                 {"model", trainer.info().model.name},
                 {"epoch", trainer.info().epoch},
                 {"step", trainer.info().step},
                 {"flags", options.recipe()}});
}

}  // namespace

int command_train(Options& options, Job* job) {
    RunFolder folder(options.run.save_dir, options.run.keep);
    const bool first = job == nullptr || job->place().rank == 0;
    if (!options.run.evaluate && first && folder.exists()) folder.take();
    std::optional<Checkpoint> resumed;
    std::vector<std::string> notes;
    open_resumed(options, resumed, notes);
    if (resumed) {
        agree_with(*resumed, options, notes);
    } else if (options.run.evaluate && options.run.finetune.empty()) {
        engine::input_error("--evaluate: name a checkpoint with --resume, or weights with --finetune");
    }
    if (!resumed || !resumed->info()) check_effects(options);
    settle_crops(options);
    Compute compute = pick_compute(options.run);
    if (!options.run.evaluate) refuse_integer(options.run);
    const TrainingData data = open_training_data(options);
    if (resumed && resumed->info() && !options.run.evaluate) require_same_data(*resumed, data, options);
    const auto model = build_model(options, data, compute, resumed ? &*resumed : nullptr, notes);
    if (options.run.evaluate) {
        settle_integer(options.run, *model, compute);
    } else {
        compute.integer = Integer::never;
    }
    const Checkpoint* source = resumed && resumed->info() ? &*resumed : nullptr;
    add_summary(options, data, *model, notes);
    if (options.run.evaluate && resumed) {
        const std::string warning = other_classes_warning(*resumed, *data.evaluation);
        if (!warning.empty()) notes.push_back(warning);
    }
    const Team team(job, compute.device, options.launch.timeout);
    const Processes& processes = team.processes();
    RunLog log;
    if (!processes.first()) log.mute();
    if (options.run.evaluate) {
        require_agreement(processes, common_values(options, data, *model, {}));
        share_parameters(*model, processes);
        return measure(options, data, compute, *model, notes, log, processes);
    }
    const TrainingOptions training = training_options(options, data, model->config().img_size, processes);
    const CheckpointInfo info = start_info(options, data, *model, source);
    require_agreement(processes, common_values(options, data, *model, info));
    share_parameters(*model, processes);
    Trainer trainer(training, data, compute, *model, info, source, folder, log, processes);
    if (processes.first()) {
        const std::string best =
            source != nullptr ? best_to_bring_along(*source, options.run.save_dir, notes) : "";
        open_run(options, data, compute, best, trainer, notes, folder, log, processes);
    }
    install_interrupt_handler();  // until here there was nothing to lose
    return tell_end(trainer.run(), options, trainer, log, processes);
}

}  // namespace vvtq::apps
