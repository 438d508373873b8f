#include "apps/training/trainer.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/training/evaluate.h"
#include "apps/training/explain.h"
#include "apps/training/interrupt.h"
#include "apps/training/memory_fit.h"
#include "apps/training/run_folder.h"
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

struct Trainer::Meters {
    Meter time{"Time", "%6.3f"};
    Meter data{"Data", "%6.3f"};
    Meter loss{"Loss", "%.4e"};
    Meter regularizer{"Reg", "%.4e"};
    Meter top1{"Acc@1", "%6.2f"};
    Meter top5{"Acc@5", "%6.2f"};
    int64_t pictures = 0;  // of the latest batch
    Stopwatch watch;       // from one result to the next
    Stopwatch waiting;     // for the loader

    void update(const StepResult& result, int64_t batch_size) {
        pictures = batch_size;
        const auto count = static_cast<double>(pictures);
        loss.update(result.loss, count);
        regularizer.update(result.regularizer, count);
        top1.update(100.0 * static_cast<double>(result.top1) / count, count);
        top5.update(100.0 * static_cast<double>(result.top5) / count, count);
    }
};

Trainer::Trainer(const TrainingOptions& options, const TrainingData& data, const Compute& compute,
                 nn::Model& model, const CheckpointInfo& info, const Checkpoint* resumed, RunLog& log)
    : options_(options),
      data_(data),
      model_(model),
      info_(info),
      log_(log),
      compute_(compute),
      optimizer_(model.parameters(), options.optimizer),
      passes_(
          plan_passes(options.schedule.epochs, options.schedule.warmup_epochs, options.training.num_crops)) {
    while (next_pass_ < passes_.size() && passes_[next_pass_].epoch < info_.epoch) ++next_pass_;
    const int begins = next_pass_ < passes_.size() ? passes_[next_pass_].epoch : options.schedule.epochs;
    if (begins != info_.epoch) {
        engine::input_error("`start_epoch`: no pass over the pictures begins at epoch ", info_.epoch,
                            "; the next one begins at ", begins);
    }
    for (size_t i = next_pass_; i < passes_.size(); ++i) {
        loader(passes_[i].crops);  // refuses what it cannot make batches of
    }
    if (resumed != nullptr) {
        last_checkpoint_ = resumed->path();
        resumed->load_optimizer(optimizer_);
        const int64_t batches = next_pass_ < passes_.size() ? loader(passes_[next_pass_].crops).batches() : 0;
        if (info_.batch > batches) {
            engine::input_error("`resume`: the checkpoint stands at batch ", info_.batch, " of an epoch of ",
                                batches, "; resume on the data set and batch size it was made with");
        }
    }
}

std::string Trainer::checkpoint_path() const { return path_in(options_.folder, kCheckpoint); }

void Trainer::save(const std::string& file) {
    check_state_finite(model_, optimizer_);
    const std::string path = path_in(options_.folder, file);
    if (last_checkpoint_.empty()) {  // an earlier run's best is not this one's
        std::error_code ignored;
        std::filesystem::remove(path_in(options_.folder, kBestCheckpoint), ignored);
    }
    save_checkpoint(path, info_, model_, optimizer_);
    last_checkpoint_ = path;
}

bool Trainer::at_step_limit() const { return options_.max_steps > 0 && info_.step >= options_.max_steps; }

data::Loader& Trainer::loader(int crops) {
    std::unique_ptr<data::Loader>& loader = crops == 1 ? single_ : several_;
    if (loader == nullptr) {
        data::LoaderOptions options = options_.training;
        options.num_crops = crops;
        loader = std::make_unique<data::Loader>(*data_.train, options, data_.labels.get());
    }
    return *loader;
}

StepRates Trainer::rates_of(const Pass& pass, int64_t step) const {
    StepRates rates;
    rates.lr = options_.schedule.at(pass.epoch);
    rates.regularizer_weight =
        options_.regularize ? quant::bin_regularizer_weight(pass.epoch, options_.schedule.epochs) : 0.0;
    rates.regularize = rates.regularizer_weight != 0.0;
    rates.random_key =
        engine::mix_key({options_.training.seed, kStochasticDepth, static_cast<uint64_t>(step)});
    return rates;
}

void Trainer::report(const Pass& pass, int64_t batch, int64_t batches, int64_t step, double lr,
                     const Meters& m) {
    const std::string epoch = std::to_string(pass.epoch);
    char lr_text[40];
    std::snprintf(lr_text, sizeof lr_text, "LR %.5f", lr);
    std::string text = batch_label("Epoch: [" + epoch + "]", batch, batches);
    for (const Meter* meter : {&m.time, &m.data, &m.loss, &m.top1, &m.top5}) {
        text += '\t';
        text += meter->str();
    }
    char bar[96];
    std::snprintf(bar, sizeof bar, "Epoch %d/%d  loss %.3f  acc %.1f", pass.epoch, options_.schedule.epochs,
                  m.loss.mean(), m.top1.mean());
    log_.progress(text + "\t" + lr_text, bar, batch + 1, batches, m.time.mean());
    log_.metrics({{"kind", "train"},
                  {"epoch", pass.epoch},
                  {"crops", pass.crops},
                  {"batch", batch},
                  {"batches", batches},
                  {"step", step},
                  {"loss", m.loss.latest()},
                  {"reg", m.regularizer.latest()},
                  {"lr", lr},
                  {"acc1", m.top1.latest()},
                  {"acc5", m.top5.latest()},
                  {"time", m.time.mean()},
                  {"data", m.data.mean()},
                  {"img_s", static_cast<double>(m.pictures) / m.time.mean()}});
}

void Trainer::account(const Pass& pass, Meters& meters) {
    const int64_t behind = static_cast<int64_t>(step_->pending());
    const int64_t index = info_.batch - behind, step = info_.step - behind;  // of the step that is read
    in_step_ = true;
    reading_ = step;
    const StepResult result = step_->take();
    if (result.found_inf != 0) {
        load_again(loader(pass.crops), static_cast<uint64_t>(pass.epoch), index, *place_);
        step_->explain(rates_of(pass, step), result);
    }
    in_step_ = false;
    meters.update(result, place_->size());
    meters.time.update(meters.watch.lap());
    if (index % options_.print_freq == 0) {
        report(pass, index, loader(pass.crops).batches(), step + 1, options_.schedule.at(pass.epoch), meters);
    }
}

Outcome Trainer::run_pass(const Pass& pass) {
    data::Loader& batches = loader(pass.crops);
    batches.start(static_cast<uint64_t>(pass.epoch), info_.batch);
    if (place_ == nullptr) {
        place_ = std::make_unique<DeviceBatch>(compute_.device, options_.training.batch_size,
                                               model_.config().img_size, model_.config().num_classes,
                                               has_soft_targets(options_, data_));
    }
    if (step_ == nullptr) {
        step_ = std::make_unique<TrainingStep>(
            model_, optimizer_, *place_, StepOptions{compute_.dtype, options_.smoothing, options_.graph});
    }
    Meters meters;
    data::Batch batch;
    const size_t ahead = compute_.device == engine::Device::cpu ? 0 : kAhead;
    for (int64_t b = info_.batch; batches.next(batch); ++b) {
        meters.data.update(meters.waiting.lap());
        place_->load(batch);
        step_->submit(rates_of(pass, info_.step));
        info_.batch = b + 1;
        ++info_.step;
        while (step_->pending() > ahead) account(pass, meters);
        const bool last = b + 1 == batches.batches();  // the step limit lets a finished pass be evaluated
        if (interrupted() || (at_step_limit() && !last)) {
            while (step_->pending() > 0) account(pass, meters);
            save(kCheckpoint);
            return interrupted() ? Outcome::interrupted : Outcome::step_limit;
        }
        meters.waiting.lap();
    }
    while (step_->pending() > 0) account(pass, meters);
    check_state_finite(model_, optimizer_);
    optimizer_.clear_grad();
    step_.reset();  // what its graph holds serves the evaluation
    const auto accuracy =
        evaluate(model_, *data_.evaluation, options_.evaluation, compute_, log_, options_.print_freq);
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
    info_.epoch = pass.epoch + pass.crops;
    info_.batch = 0;
    const bool best = accuracy->acc1 > info_.best_acc1;
    info_.best_acc1 = std::max(info_.best_acc1, accuracy->acc1);
    if (best) save(kBestCheckpoint);
    save(kCheckpoint);
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
        if (last_checkpoint_ != checkpoint_path()) {  // nothing was left to do
            save(kCheckpoint);
        }
        return outcome;
    } catch (const engine::OutOfMemory&) {
        step_.reset();
        place_.reset();
        refuse_batch(model_, optimizer_, compute_, options_.regularize, options_.training.batch_size);
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
