#include "apps/training/trainer.h"

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "apps/training/explain.h"
#include "apps/training/interrupt.h"
#include "apps/training/memory_fit.h"
#include "apps/training/quantizer_report.h"
#include "apps/training/value_text.h"
#include "engine/random.h"
#include "quant/bin_regularizer.h"

namespace vvtq::apps {
namespace {

constexpr size_t kAhead = 2;                       // steps that a GPU may be ahead of what was read of it
constexpr uint64_t kStochasticDepth = 0x73646570;  // keeps the stream apart from the loader's

/// Whether training batches carry class distributions: from labels, or from mixup and cutmix.
bool has_soft_targets(const TrainingOptions& options, const TrainingData& data) {
    return data.labels != nullptr || options.training.augmentation.mixing.active();
}

}  // namespace

Trainer::Trainer(const TrainingOptions& options, const TrainingData& data, const Compute& compute,
                 nn::Model& model, const CheckpointInfo& info, const Checkpoint* resumed, RunFolder& folder,
                 RunLog& log, Processes processes)
    : options_(options),
      data_(data),
      model_(model),
      info_(info),
      folder_(folder),
      log_(log),
      guards_(model, log),
      compute_(compute),
      loaders_(options, data, compute.device),
      optimizer_(model.parameters(), options.optimizer),
      processes_(std::move(processes)) {
    if (options.track_oscillation) {
        oscillation_ = std::make_unique<quant::OscillationTracker>(model, options.freeze_threshold > 0);
    }
    plan(resumed != nullptr);
    for (size_t i = next_pass_; i < passes_.size(); ++i) {
        loaders_.training(passes_[i].crops);  // refuses what it cannot make batches of
    }
    if (resumed != nullptr) {
        last_checkpoint_ = resumed->path();
        resumed->load_optimizer(optimizer_);
        if (oscillation_ != nullptr) resumed->load_oscillation(*oscillation_);
        share_state(optimizer_, oscillation_.get(), processes_);
        const int64_t batches =
            next_pass_ < passes_.size() ? loaders_.training(passes_[next_pass_].crops).batches() : 0;
        if (info_.batch > batches) {
            engine::input_error("`resume`: the checkpoint stands at batch ", info_.batch, " of an epoch of ",
                                batches, "; resume on the data set and batch size it was made with");
        }
    }
}

void Trainer::plan(bool resumed) {
    const nn::CosineSchedule& schedule = options_.schedule;
    const auto from = [&](int first) {
        return plan_passes(schedule.epochs, schedule.warmup_epochs, options_.training.num_crops, first);
    };
    if (resumed) {  // the passes so far may be those of fewer epochs
        int first = info_.epoch;
        if (info_.batch > 0 && info_.crops > 0) {
            if (info_.crops != 1 && info_.crops != options_.training.num_crops) {
                engine::input_error(
                    "`resume`: the checkpoint stands in an epoch of ", info_.crops,
                    " crops of each picture, which this run does not have; name another file");
            }
            passes_.push_back({first, info_.crops});
            first += info_.crops;
        }
        const std::vector<Pass> rest = from(first);
        passes_.insert(passes_.end(), rest.begin(), rest.end());
        return;
    }
    passes_ = from(0);
    while (next_pass_ < passes_.size() && passes_[next_pass_].epoch < info_.epoch) ++next_pass_;
    const int begins = next_pass_ < passes_.size() ? passes_[next_pass_].epoch : schedule.epochs;
    if (begins != info_.epoch) {
        engine::input_error("`start_epoch`: no pass over the pictures begins at epoch ", info_.epoch,
                            "; the next one begins at ", begins);
    }
}

std::string Trainer::checkpoint_path() const { return path_in(folder_.dir(), kCheckpoint); }

size_t Trainer::checkpoint_bytes() const {
    size_t bytes = 0;
    for (const nn::NamedParameter& p : model_.parameters()) bytes += p.parameter.value().bytes();
    for (const auto& [name, buffer] : model_.buffers()) bytes += buffer.bytes();
    for (const auto& [name, moment] : optimizer_.state()) bytes += moment.bytes();
    if (oscillation_ != nullptr) {
        for (const auto& [name, tensor] : oscillation_->state()) bytes += tensor.bytes();
    }
    return bytes;
}

bool Trainer::save(const std::string& file) {
    check_state_finite(model_, optimizer_);
    const std::string path = path_in(folder_.dir(), file);
    if (!processes_.first()) {
        last_checkpoint_ = path;
        return true;
    }
    processes_.progress(true);
    const bool latest = file == kCheckpoint;
    const std::string before = not_saved_;
    try {
        const bool gone =
            folder_.save(file, info_, model_, optimizer_, oscillation_.get(), last_checkpoint_.empty());
        log_.reopen();  // they may have been removed without the folder, too
        if (gone) {
            guards_.warn("folder_gone", info_.step, "", 0,
                         "the folder " + folder_.dir() + " had gone and is made again");
        }
        last_checkpoint_ = path;
        if (latest) not_saved_.clear();
        if (latest && !before.empty()) log_.line("=> " + path + " is written again");
        return true;
    } catch (const engine::Error& error) {
        if (latest) not_saved_ = error.what();
        std::cerr << "vvtq: warning: after step " << info_.step << ": " << error.what()
                  << "; this is tried again at the next checkpoint" << std::endl;
        guards_.warn("not_saved", info_.step, "", 0, error.what());
        return false;
    }
}

void Trainer::stop_at(const engine::Error& error) {
    const bool other = !processes_.first();  // the first one does not learn of it in time to save
    if (error.fault() != engine::Fault::input || other || !saved() || !not_saved_.empty()) {
        throw engine::Error(error.fault(), error.what());
    }
    engine::input_error(error.what(), "; ", last_checkpoint_, " holds the state after step ", info_.step,
                        ": go on from there with `resume`");
}

bool Trainer::stopping() const { return processes_.size == 1 ? interrupted() : asked_to_stop_; }

bool Trainer::at_step_limit() const { return options_.max_steps > 0 && info_.step >= options_.max_steps; }

StepRates Trainer::rates_of(const Pass& pass, int64_t step) const {
    StepRates rates;
    rates.lr = options_.schedule.at(pass.epoch);
    rates.regularizer_weight =
        options_.regularize ? quant::bin_regularizer_weight(pass.epoch, options_.schedule.epochs) : 0.0;
    rates.regularize = rates.regularizer_weight != 0.0;
    rates.random_key =
        engine::mix_key({options_.training.seed, kStochasticDepth, static_cast<uint64_t>(step)});
    rates.stop = interrupted();
    const double freeze = options_.freeze_threshold, end = options_.freeze_threshold_end;
    rates.freeze_threshold =
        quant::freeze_threshold(freeze, end > 0 ? end : freeze, pass.epoch, options_.schedule.epochs);
    return rates;
}

void Trainer::look_into(const Pass& pass, int64_t index, int64_t step, const StepResult& bad) {
    moved_ = true;
    bool there = false;
    std::string why = "a signal arrived before it was looked into";
    try {
        there = load_again(loaders_.training(pass.crops), static_cast<uint64_t>(pass.epoch), index, *place_);
    } catch (const engine::Error& error) {
        if (error.fault() == engine::Fault::internal) throw;
        why = std::string("its pictures cannot be read again: ") + error.what();
    }
    const StepRates rates = rates_of(pass, step);
    const BadStep own = there ? step_->reason(rates, bad) : BadStep{"it is not finite, and " + why, false};
    const std::vector<std::string> texts = processes_.exchange((own.found ? "!" : "?") + own.text);
    const auto found = std::find_if(texts.begin(), texts.end(), [](const auto& t) { return t[0] == '!'; });
    const std::string reason = (found == texts.end() ? texts.front() : *found).substr(1);
    if (!options_.skip_not_finite || (bad.found_inf & 2) != 0) {
        engine::run_error(reason, "; a smaller `lr` may help");
    }
    check_state_finite(model_, optimizer_);  // no later step could be finite
    guards_.see_skipped(step + 1, reason);
}

void Trainer::account(const Pass& pass, Meters& meters) {
    const int64_t behind = static_cast<int64_t>(step_->pending());
    const int64_t index = info_.batch - behind, step = info_.step - behind;  // of the step that is read
    in_step_ = true;
    reading_ = step;
    processes_.waiting(true);
    const StepResult result = step_->take();
    processes_.waiting(false);
    asked_to_stop_ = asked_to_stop_ || result.stop;
    if (result.found_inf != 0) {
        look_into(pass, index, step, result);
    } else {
        guards_.see_applied();
        guards_.see_loss(pass.epoch, step + 1, result.loss, info_.means);
        meters.update(result, options_.training.batch_size);
    }
    in_step_ = false;
    meters.time.update(meters.watch.lap());
    if (index % options_.print_freq == 0 && result.found_inf == 0) {
        meters.report(
            {pass.epoch, options_.schedule.epochs, pass.crops, index, loaders_.training(pass.crops).batches(),
             step + 1, rates_of(pass, step).lr, rates_of(pass, step).regularizer_weight},
            log_);
    }
}

void Trainer::account_all(const Pass& pass, Meters& meters) {
    while (step_->pending() > 0) account(pass, meters);
}

bool Trainer::next(data::Loader& batches, data::Batch& batch, const Pass& pass, Meters& meters) {
    if (std::exchange(moved_, false)) loaders_.start(pass, info_.batch);
    meters.waiting.lap();
    place_->wait();  // the loader takes the batch's memory back
    try {
        return batches.next(batch);
    } catch (const engine::Error& error) {
        if (error.fault() == engine::Fault::internal) throw;
        account_all(pass, meters);
        if (info_.batch > 0) save(kCheckpoint);  // else the end of the epoch before did
        stop_at(error);
    }
}

Outcome Trainer::stop(const Pass& pass, Meters& meters) {
    account_all(pass, meters);
    if (info_.batch > 0) save(kCheckpoint);
    return stopping() ? Outcome::interrupted : Outcome::step_limit;
}

Outcome Trainer::run_pass(const Pass& pass) {
    data::Loader& batches = loaders_.training(pass.crops);
    loaders_.start(pass, info_.batch);
    if (place_ == nullptr) {
        place_ = std::make_unique<DeviceBatch>(
            compute_.device, options_.training.batch_size / processes_.size, model_.config().img_size,
            model_.config().num_classes, has_soft_targets(options_, data_));
    }
    if (step_ == nullptr) {
        step_ = std::make_unique<TrainingStep>(model_, optimizer_, *place_,
                                               StepOptions{compute_.dtype,
                                                           options_.smoothing,
                                                           options_.graph,
                                                           options_.skip_not_finite,
                                                           {processes_.communicator, options_.training.shards,
                                                            options_.reduce_bf16, options_.buckets},
                                                           oscillation_.get()});
    }
    info_.crops = pass.crops;
    Meters meters(info_.means);
    data::Batch batch;
    const size_t ahead = compute_.device == engine::Device::cpu ? 0 : kAhead;
    while (next(batches, batch, pass, meters)) {
        processes_.progress(false);
        meters.data.update(meters.waiting.lap());
        place_->load(batch);
        step_->submit(rates_of(pass, info_.step));
        if (batches.all_begun()) loaders_.start_evaluation();
        ++info_.batch;
        ++info_.step;
        while (step_->pending() > ahead) account(pass, meters);
        const bool last =
            info_.batch == batches.batches();  // the step limit lets a finished pass be evaluated
        if (stopping() || (at_step_limit() && !last)) return stop(pass, meters);
        if (options_.save_every_steps > 0 && info_.step % options_.save_every_steps == 0) {
            account_all(pass, meters);
            save(kCheckpoint);
            processes_.exchange("");  // the others wait here, however long it takes
        }
    }
    start_next_pass();
    account_all(pass, meters);
    if (stopping()) return stop(pass, meters);  // while waiting for a batch, too
    check_state_finite(model_, optimizer_);
    optimizer_.clear_grad();
    return end_pass(pass);
}

void Trainer::start_next_pass() {
    if (stopping() || at_step_limit() || next_pass_ + 1 >= passes_.size()) return;
    loaders_.start(passes_[next_pass_ + 1]);
}

std::optional<Accuracy> Trainer::measure() {
    data::Loader& pictures = loaders_.start_evaluation();
    const auto evaluated = [&] {
        return evaluate(model_, pictures, compute_, log_, options_.print_freq, processes_);
    };
    std::optional<Accuracy> accuracy;
    try {
        accuracy = evaluated();
    } catch (const engine::OutOfMemory&) {
        step_.reset();  // what its graph holds serves the evaluation
        accuracy = evaluated();
    }
    loaders_.end_evaluation();
    const std::vector<std::string> kept = processes_.exchange(step_ != nullptr ? "kept" : "");
    if (std::count(kept.begin(), kept.end(), "") > 0) step_.reset();  // all record a step, or none
    return accuracy;
}

Outcome Trainer::end_pass(const Pass& pass) {
    constexpr int64_t kLooked = 8;  // pictures that the guards look at
    if (place_->size() > 0 && processes_.first()) {
        guards_.inspect(info_.step,
                        place_->pictures(compute_.dtype).slice(0, std::min(kLooked, place_->size())));
    }
    std::optional<Accuracy> accuracy;
    try {
        share_buffers(model_, processes_);
        accuracy = measure();
    } catch (const engine::Error& error) {
        if (error.fault() == engine::Fault::input) save(kCheckpoint);
        stop_at(error);
    }
    if (!accuracy) {
        save(kCheckpoint);
        return Outcome::interrupted;
    }
    log_.metrics({{"kind", "eval"},
                  {"epoch", pass.epoch},
                  {"epochs_done", pass.epoch + pass.crops},
                  {"step", info_.step},
                  {"loss", accuracy->loss},
                  {"acc1", accuracy->acc1},
                  {"acc5", accuracy->acc5}});
    if (processes_.first()) report_quantizers(model_, oscillation_.get(), pass.epoch, info_.step, log_);
    if (guards_.skipped() > 0) {
        log_.line(
            engine::concat("=> steps left out so far because they were not finite: ", guards_.skipped()));
    }
    if (last_checkpoint_.empty()) save(kCheckpoint);  // an earlier run's may not lie beside this one's best
    info_.epoch = pass.epoch + pass.crops;
    info_.batch = 0;
    info_.crops = 0;
    info_.means = {.usual_loss = info_.means.usual_loss, .usual_steps = info_.means.usual_steps};
    const double best = info_.best_acc1;
    info_.best_acc1 = std::max(best, accuracy->acc1);
    if (accuracy->acc1 > best && !save(kBestCheckpoint) && !save(kBestCheckpoint)) {
        info_.best_acc1 = best;  // that of the file, so that the next better one is written
    }
    save(kCheckpoint);
    parse_text(processes_.exchange(value_text(info_.best_acc1)).front(), info_.best_acc1);
    return Outcome::finished;
}

Outcome Trainer::run_passes() {
    for (; next_pass_ < passes_.size(); ++next_pass_) {
        if (at_step_limit()) return Outcome::step_limit;
        const Outcome outcome = run_pass(passes_[next_pass_]);
        if (outcome != Outcome::finished) return outcome;
    }
    return Outcome::finished;
}

Outcome Trainer::run() {
    model_.train(true);
    try {
        const Outcome outcome = run_passes();
        const bool untouched = last_checkpoint_.empty() && outcome == Outcome::interrupted;
        if (!not_saved_.empty() || (!saved() && !untouched)) save(kCheckpoint);  // or nothing was left to do
        if (!not_saved_.empty()) engine::run_error(not_saved_);
        return outcome;
    } catch (const engine::OutOfMemory&) {
        step_.reset();
        place_.reset();
        const int64_t parts = std::max<int64_t>(processes_.size, options_.training.shards);
        refuse_batch(model_, optimizer_, compute_, options_.regularize, options_.training.batch_size, parts);
    } catch (const engine::Error& error) {
        if (error.fault() != engine::Fault::run) throw;
        const int epoch = next_pass_ < passes_.size() ? passes_[next_pass_].epoch : options_.schedule.epochs;
        engine::run_error("epoch ", epoch, in_step_ ? ", step " : ", after step ",
                          in_step_ ? reading_ + 1 : info_.step, ": ", error.what(), "; ",
                          last_checkpoint_.empty() ? "there is no checkpoint yet"
                                                   : last_checkpoint_ + " holds the last good state");
    }
}

}  // namespace vvtq::apps
