// `vvtq bench predict`: how fast a trained model tells classes, beside the same model in floats.
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/commands/bench_model.h"
#include "apps/commands/bench_support.h"
#include "apps/commands/commands.h"
#include "apps/training/interrupt.h"
#include "apps/training/packed_file.h"
#include "engine/check.h"
#include "engine/threads.h"
#include "quant/attach.h"

namespace vvtq::apps {
namespace {

namespace fs = std::filesystem;

using nlohmann::ordered_json;

const Compute kCompute{engine::Device::cpu, engine::DType::f32, engine::DType::f32};

/// A folder that is gone at the end.
class TemporaryFolder {
  public:
    TemporaryFolder() : path_(fs::temp_directory_path() / "vvtq-XXXXXX") {
        if (::mkdtemp(path_.data()) == nullptr) {
            engine::input_error("no folder can be made in ", fs::temp_directory_path().string(),
                                "; let TMPDIR name another one");
        }
    }
    ~TemporaryFolder() {
        std::error_code ignored;
        fs::remove_all(path_, ignored);
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;

    std::string file(const std::string& name) const { return path_ + "/" + name; }

  private:
    std::string path_;
};

/// One of the models whose times stand beside one another.
struct Subject {
    std::string precision;  // of its products: "fp32"
    bool quantized = false;
    std::unique_ptr<nn::Model> model;
};

/// What is measured of a subject at one number of threads and one batch size.
struct Series {
    std::vector<double> ms, products_ms;  // of a forward pass, of its bare products
};

/// Everything that the command works on. What is made before `load` starts no threads.
class Bench {
  public:
    explicit Bench(Options& options) : options_(&options) {
        if (options.run.precision != "auto" && options.run.precision != "fp32") {
            engine::input_error("--precision: must be auto or fp32");
        }
        if (options.predict.checkpoint.empty()) {
            if (options.model.name.empty()) {
                engine::input_error(
                    "name a checkpoint, or a model and its bits: vvtq bench predict --model "
                    "deit_tiny_patch16_224_quant --wbits 4 --abits 4");
            }
            config = resolve_config(options, nullptr, 0);
            if (has_low_bits(options.quantizer)) make_file();
        } else {
            path_ = options.predict.checkpoint;
        }
        if (!path_.empty()) open();
        if (quantized_) subjects.push_back({"fp32", true, nullptr});
        subjects.push_back({"fp32", false, nullptr});
    }

    /// The weights of a file are those of its own kind of model; the other kind has random ones, which takes
    /// the same time.
    std::unique_ptr<nn::Model> make(const Subject& subject) {
        std::unique_ptr<nn::Model> model;
        if (checkpoint_ && subject.quantized == quantized_) {
            std::vector<std::string> notes;
            model = load_model(*options_, *checkpoint_, 0, kCompute, notes);
        } else {
            model = make_model(config, kCompute, options_->run.seed);
        }
        model->train(false);
        return model;
    }
    void load() {
        for (Subject& subject : subjects) subject.model = make(subject);
    }

    /// The sizes of the model's files. After `load`.
    ordered_json files() const {
        ordered_json line = {{"bench", "predict"}, {"what", "files"}, {"model", config.name}};
        line["float_bytes"] = 4 * parameter_count(*subjects.back().model);
        if (random_ == nullptr && checkpoint_) line["file_bytes"] = fs::file_size(path_);
        nn::Model& model = *subjects.front().model;
        const auto slots = quant::slots(model);
        if (std::any_of(slots.begin(), slots.end(), [](const auto& slot) {
                return slot.second->get() != nullptr && slot.second->values() == nn::Values::weight;
            })) {
            const std::string packed = folder_.file("packed.safetensors");
            save_packed(packed, checkpoint_->info().value_or(quantized_info(model, options_->quantizer)),
                        model, PackedFloats::f32);
            line["packed_bytes"] = fs::file_size(packed);
        }
        return line;
    }
    /// --wbits or --abits of a subject; 32: floats.
    static int bits(const Subject& subject, int width) {
        return subject.quantized && width != -1 ? width : 32;
    }
    const QuantizerFlags& quantizer() const { return options_->quantizer; }

    nn::ModelConfig config;
    std::vector<Subject> subjects;  // the model in floats is the last

  private:
    /// A packed file of a model with random weights, made by a process that is gone afterwards.
    void make_file() {
        const std::string path = folder_.file("model.safetensors");
        const auto write = [&] {
            const auto model = random_model(*options_, kCompute, config);
            save_packed(path, quantized_info(*model, options_->quantizer), *model, PackedFloats::f32);
        };
        if (!peak_mib(write)) write();
        path_ = path;
        random_ = parse_options({"bench", "predict", path_});
        random_->run.seed = options_->run.seed;
        options_ = random_.get();
    }
    void open() {
        checkpoint_.emplace(path_, "CKPT");
        config = loaded_config(*options_, *checkpoint_, 0);
        quantized_ = checkpoint_->quantized(*nn::make_shapes(config, kCompute.parameters));
    }

    Options* options_;
    TemporaryFolder folder_;
    std::string path_;
    std::unique_ptr<Options> random_;  // of a model with random weights, which lies in a file of ours
    std::optional<Checkpoint> checkpoint_;
    bool quantized_ = false;
};

/// Adds the times of one turn of `work`: at least one, and at least a quarter of a second. Where there are
/// several, the first is left out: its weights had gone from the caches while others had their turn.
void take_turn(const std::function<void()>& work, std::vector<double>& ms) {
    constexpr double kTurn = 250;
    std::vector<double> turn;
    for (double sum = 0; !interrupted() && sum < kTurn; sum += turn.back()) {
        turn.push_back(timed(engine::runtime(engine::Device::cpu), work));
    }
    ms.insert(ms.end(), turn.begin() + (turn.size() > 1 ? 1 : 0), turn.end());
}

/// One number of threads or batch size a place, none twice.
std::vector<int64_t> distinct(const std::vector<int64_t>& numbers) {
    std::vector<int64_t> once;
    for (const int64_t number : numbers) {
        if (std::find(once.begin(), once.end(), number) == once.end()) once.push_back(number);
    }
    return once;
}

/// The numbers of --threads, with those of all cores for 0.
std::vector<int64_t> thread_counts(std::vector<int64_t> asked) {
    for (int64_t& count : asked) {
        engine::set_threads(static_cast<int>(count));
        count = engine::threads();
    }
    return distinct(asked);
}

/// A subject with pictures of one batch size.
struct Pass {
    std::function<void()> forward;
    std::vector<engine::KernelCall> products;
    double flops = 0;
    std::optional<double> peak;

    void bare_products() const {
        for (const engine::KernelCall& call : products) {
            for (int64_t i = 0; i < call.count; ++i) call.repeat();
        }
    }
};

std::function<void()> forward_pass(nn::Model& model, std::shared_ptr<DeviceBatch> pictures) {
    return [&model, pictures = std::move(pictures)] {
        const autograd::NoGrad off_tape;
        model.forward(pictures->pictures(kCompute.dtype));
    };
}

/// Runs the pass once and notes its products.
void note_products(Pass& pass) {
    const engine::KernelTrace trace(kCompute.device, true);
    pass.forward();
    pass.products = trace.calls();
    for (const engine::KernelCall& call : pass.products) {
        pass.flops += call.flops * static_cast<double>(call.count);
    }
}

}  // namespace

int command_bench_predict(Options& options) {
    Bench bench(options);
    const std::vector<int64_t> batches = distinct(options.bench.batches),
                               threads = thread_counts(options.bench.threads);
    engine::set_threads(static_cast<int>(*std::max_element(threads.begin(), threads.end())));
    std::vector<std::vector<Pass>> passes(batches.size(), std::vector<Pass>(bench.subjects.size()));
    const auto pictures = [&](int64_t size) {
        return std::shared_ptr<DeviceBatch>(random_batch(kCompute, bench.config, size, options.run.seed));
    };
    for (size_t b = 0; b < batches.size(); ++b) {
        for (size_t s = 0; s < bench.subjects.size(); ++s) {
            passes[b][s].peak = peak_mib([&] {
                const auto model = bench.make(bench.subjects[s]);
                forward_pass(*model, pictures(batches[b]))();
            });
        }
    }
    install_interrupt_handler();
    bench.load();
    std::cout << bench.files().dump() << std::endl;
    for (size_t b = 0; b < batches.size(); ++b) {
        const auto batch = pictures(batches[b]);
        for (size_t s = 0; s < bench.subjects.size() && !interrupted(); ++s) {
            passes[b][s].forward = forward_pass(*bench.subjects[s].model, batch);
            note_products(passes[b][s]);
        }
    }
    std::map<std::array<size_t, 3>, Series> all;  // by threads, batch, subject
    for (int turn = 0; turn < options.bench.turns && !interrupted(); ++turn) {
        for (size_t t = 0; t < threads.size(); ++t) {
            engine::set_threads(static_cast<int>(threads[t]));
            for (size_t b = 0; b < batches.size(); ++b) {
                for (size_t s = 0; s < bench.subjects.size(); ++s) {
                    Series& series = all[{t, b, s}];
                    take_turn(passes[b][s].forward, series.ms);
                    take_turn([&] { passes[b][s].bare_products(); }, series.products_ms);
                }
            }
        }
    }
    if (interrupted()) {
        std::cerr << "vvtq bench predict: stopped by " << interrupt_name() << std::endl;
        return 1;
    }
    for (const auto& [at, series] : all) {
        const auto [t, b, s] = at;
        const Subject& subject = bench.subjects[s];
        const double ms = quantile(series.ms, 0.5), products = quantile(series.products_ms, 0.5);
        ordered_json line = {{"bench", "predict"},
                             {"what", "speed"},
                             {"model", bench.config.name},
                             {"wbits", bench.bits(subject, bench.quantizer().wbits)},
                             {"abits", bench.bits(subject, bench.quantizer().abits)},
                             {"precision", subject.precision},
                             {"threads", threads[t]},
                             {"batch_size", batches[b]},
                             {"passes", series.ms.size()},
                             {"ms", ms},
                             {"p90_ms", quantile(series.ms, 0.9)},
                             {"img_s", 1e3 * static_cast<double>(batches[b]) / ms},
                             {"products_ms", products},
                             {"products_gops", passes[b][s].flops / products * 1e-6},
                             {"speedup", quantile(all.at({t, b, bench.subjects.size() - 1}).ms, 0.5) / ms}};
        if (passes[b][s].peak) line["peak_mib"] = *passes[b][s].peak;
        std::cout << line.dump() << '\n';
    }
    std::cout << std::flush;
    return 0;
}

}  // namespace vvtq::apps
