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
#include "engine/random.h"
#include "engine/threads.h"
#include "nn/inference.h"
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
    std::string precision;  // of its products: "int8" or "fp32"
    bool quantized = false;
    std::unique_ptr<nn::Model> model;
    std::map<int64_t, double> peak_mib;  // by batch size

    bool integer() const { return precision == "int8"; }
    nn::Products products() const { return integer() ? nn::Products::integers : nn::Products::floats; }
};

/// What is measured of a subject at one number of threads and one batch size.
struct Series {
    int64_t threads;
    std::vector<double> ms, products_ms;  // of a forward pass, of its bare products
};

/// Everything that the command works on. What is made before `load` starts no threads.
class Bench {
  public:
    explicit Bench(Options& options) : options_(&options), precision_(options.run.precision) {
        if (precision_ != "auto" && precision_ != "fp32" && precision_ != "int8") {
            engine::input_error("--precision: must be auto, int8 or fp32");
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
        if (precision_ == "int8" && !quantized_) {
            engine::input_error("--precision: int8 needs a quantized model",
                                path_.empty() ? "; set --wbits and --abits" : ", name another file");
        }
        if (quantized_ && precision_ != "fp32") subjects.push_back({"int8", true, nullptr, {}});
        if (quantized_ && precision_ != "int8") subjects.push_back({"fp32", true, nullptr, {}});
        subjects.push_back({"fp32", false, nullptr, {}});
    }

    /// The weights of a file are those of its own kind of model; the other kind has random ones, which takes
    /// the same time.
    std::unique_ptr<nn::Model> make(const Subject& subject) {
        std::unique_ptr<nn::Model> model;
        if (checkpoint_ && subject.quantized == quantized_) {
            std::vector<std::string> notes;
            model = load_model(*options_, *checkpoint_, 0, kCompute, notes, subject.integer());
        } else {
            model = make_model(config, kCompute, options_->run.seed);
        }
        model->train(false);
        return model;
    }
    /// Without an integer subject where the model has other products too.
    void load() {
        for (Subject& subject : subjects) subject.model = make(subject);
        if (!subjects.front().integer() || quant::has_integer_products(*subjects.front().model)) return;
        if (precision_ == "int8") {
            engine::input_error(
                "--precision: int8 needs a model whose weights and activations all have 2 to 8 "
                "bits; leave the flag out");
        }
        subjects.erase(subjects.begin());
    }

    /// The sizes of the model's files. After `load`.
    ordered_json files() {
        ordered_json line = {{"bench", "predict"}, {"what", "files"}, {"model", config.name}};
        line["float_bytes"] = 4 * parameter_count(*subjects.back().model);
        if (random_ == nullptr && checkpoint_) line["file_bytes"] = fs::file_size(path_);
        // codes are packed from floats, which a subject of integer products does not have
        const auto with_floats = subjects.front().integer() ? make({"fp32", true, nullptr, {}}) : nullptr;
        nn::Model& model = with_floats != nullptr ? *with_floats : *subjects.front().model;
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
    std::string precision_;  // that was asked for
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
    const Subject* subject;
    std::shared_ptr<DeviceBatch> pictures;

    void forward() const { subject->model->forward(pictures->pictures(kCompute.dtype)); }
};

/// The matrix products of a forward pass without anything else.
class Products {
  public:
    /// Runs a pass of the model in floats and notes its products. Those of a quantized model have the same
    /// sizes.
    explicit Products(const Pass& floats) {
        const autograd::NoGrad off_tape;
        const engine::KernelTrace trace(kCompute.device, true);
        floats.forward();
        calls_ = trace.calls();
        for (const engine::KernelCall& call : calls_) {
            operations += call.flops * static_cast<double>(call.count);
        }
    }
    /// As many of the same sizes, of codes.
    Products integer() const {
        Products other = *this;
        for (engine::KernelCall& call : other.calls_) call.repeat = integer_product(call.product);
        return other;
    }

    void run() const {
        for (const engine::KernelCall& call : calls_) {
            for (int64_t i = 0; i < call.count; ++i) call.repeat();
        }
    }

    double operations = 0;  // additions and multiplications

  private:
    /// The product of random codes.
    static std::function<void()> integer_product(const engine::ProductSize& size) {
        const auto codes = [](int64_t rows, int64_t columns, engine::DType dtype) {
            constexpr uint64_t kBelow = 16;  // codes of 4 bits
            engine::Random random(1);
            const engine::Tensor y({rows, columns}, dtype, kCompute.device);
            auto* bytes = static_cast<uint8_t*>(y.raw());
            for (int64_t i = 0; i < y.numel(); ++i) bytes[i] = static_cast<uint8_t>(random.below(kBelow));
            return y;
        };
        const auto& kernel = engine::kernels(kCompute.device);
        const engine::Tensor x = codes(size.rows, size.inner, engine::DType::u8);
        const engine::Tensor packed({engine::packed_bytes(size.columns, size.inner)}, engine::DType::i8,
                                    kCompute.device);
        kernel.pack_codes(codes(size.columns, size.inner, engine::DType::i8), packed);
        const engine::Tensor y({size.rows, size.columns}, engine::DType::f32, kCompute.device);
        return [x, packed, y, &kernel] { kernel.linear_codes(x, packed, {}, {}, false, {}, y); };
    }

    std::vector<engine::KernelCall> calls_;
};

void measure_memory(Bench& bench, const std::vector<int64_t>& batches, uint64_t seed) {
    for (Subject& subject : bench.subjects) {
        for (const int64_t batch : batches) {
            const auto peak = peak_mib([&] {
                subject.model = bench.make(subject);
                const nn::Inference inference(*subject.model, kCompute.dtype, subject.products());
                Pass{&subject, random_batch(kCompute, bench.config, batch, seed)}.forward();
            });
            if (peak) subject.peak_mib[batch] = *peak;
        }
    }
}

ordered_json speed(const Bench& bench, const Pass& pass, const Series& series, double operations,
                   double ms_in_floats) {
    const Subject& subject = *pass.subject;
    const int64_t batch = pass.pictures->size();
    const double ms = quantile(series.ms, 0.5), products = quantile(series.products_ms, 0.5);
    ordered_json line = {{"bench", "predict"},
                         {"what", "speed"},
                         {"model", bench.config.name},
                         {"wbits", Bench::bits(subject, bench.quantizer().wbits)},
                         {"abits", Bench::bits(subject, bench.quantizer().abits)},
                         {"precision", subject.precision},
                         {"threads", series.threads},
                         {"batch_size", batch},
                         {"passes", series.ms.size()},
                         {"ms", ms},
                         {"p90_ms", quantile(series.ms, 0.9)},
                         {"img_s", 1e3 * static_cast<double>(batch) / ms},
                         {"speedup", ms_in_floats / ms},
                         {"products_ms", products},
                         {"products_gops", operations / products * 1e-6}};
    const auto peak = subject.peak_mib.find(batch);
    if (peak != subject.peak_mib.end()) line["peak_mib"] = peak->second;
    return line;
}

}  // namespace

int command_bench_predict(Options& options) {
    Bench bench(options);
    const std::vector<int64_t> batches = distinct(options.bench.batches),
                               threads = thread_counts(options.bench.threads);
    engine::set_threads(static_cast<int>(*std::max_element(threads.begin(), threads.end())));
    if (!options.bench.no_memory) measure_memory(bench, batches, options.run.seed);
    install_interrupt_handler();
    bench.load();
    std::cout << bench.files().dump() << std::endl;
    std::vector<Pass> passes;
    std::vector<Products> products;  // of the passes
    for (const int64_t batch : batches) {
        const std::shared_ptr<DeviceBatch> pictures =
            random_batch(kCompute, bench.config, batch, options.run.seed);
        const Products of_floats(Pass{&bench.subjects.back(), pictures});
        for (const Subject& subject : bench.subjects) {
            passes.push_back({&subject, pictures});
            products.push_back(subject.integer() ? of_floats.integer() : of_floats);
        }
    }
    std::vector<Series> all;  // for each number of threads one of each pass
    for (const int64_t count : threads) all.insert(all.end(), passes.size(), Series{count, {}, {}});
    for (int turn = 0; turn < options.bench.turns && !interrupted(); ++turn) {
        for (size_t i = 0; i < all.size(); ++i) {
            const size_t p = i % passes.size();
            const Subject& subject = *passes[p].subject;
            const nn::Inference inference(*subject.model, kCompute.dtype, subject.products());
            engine::set_threads(static_cast<int>(all[i].threads));
            take_turn([&] { passes[p].forward(); }, all[i].ms);
            take_turn([&] { products[p].run(); }, all[i].products_ms);
        }
    }
    if (interrupted()) {
        std::cerr << "vvtq bench predict: stopped by " << interrupt_name() << std::endl;
        return 1;
    }
    const size_t subjects = bench.subjects.size();
    for (size_t i = 0; i < all.size(); ++i) {
        const Series& floats = all[i / subjects * subjects + subjects - 1];
        const size_t p = i % passes.size();
        std::cout << speed(bench, passes[p], all[i], products[p].operations, quantile(floats.ms, 0.5)).dump()
                  << '\n';
    }
    std::cout << std::flush;
    return 0;
}

}  // namespace vvtq::apps
