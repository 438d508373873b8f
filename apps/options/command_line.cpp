// The commands and their flags, over CLI11.
#include <algorithm>

#include "apps/options/bits_file.h"
#include "apps/options/flag_groups.h"
#include "apps/options/options.h"
#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace {

void define_pretrain(FlagTable& flags, Options& o) {
    o.model.drop_path = 0.1;
    o.data.batch_size = 64;
    o.optimizer.epochs = 300;
    o.optimizer.lr = 5e-4;
    o.optimizer.weight_decay = 0.05;
    add_model(flags, o.model, true);
    add_data(flags, o.data, true);
    flags.add("--smoothing", o.labels.smoothing, "label smoothing", true);
    add_augmentation(flags, o.data);
    add_optimizer(flags, o.optimizer);
    add_run(flags, o.run);
    add_training(flags, o.run);
    add_processes(flags, o);
    flags.add_unsupported();
}

void define_train(FlagTable& flags, Options& o) {
    o.labels.smoothing = 0.0;
    add_model(flags, o.model, true);
    add_data(flags, o.data, true);
    flags.group("Soft labels");
    flags.add(
        "--softlabel_path", o.labels.path,
        "label file of `vvtq softlabel` or tree of published label files; without it the true classes are "
        "used");
    flags.add("--soft_label_type", o.labels.type,
              "of the files in a tree; checked against a packed file where it is given");
    flags.add("--num_crops", o.labels.num_crops, "crops of each picture in a batch", true);
    flags.add("--smoothing", o.labels.smoothing, "label smoothing, without --softlabel_path", true);
    add_quantizer(flags, o.quantizer);
    flags.add_switch("--fixed-scale", o.quantizer.fixed_scale, "steps and offsets keep their start values",
                     true);
    flags.add_switch(
        "--head-wise", o.quantizer.head_wise,
        "one step for each head in the attention of DeiT and Swin; --reg leaves the projections out", true);
    add_optimizer(flags, o.optimizer);
    add_run(flags, o.run);
    add_training(flags, o.run);
    flags.add_switch("--keep-steps", o.run.keep_steps,
                     "--finetune: quantizers start from the steps of a quantized checkpoint");
    flags.add_switch("-e,--evaluate", o.run.evaluate,
                     "measure the accuracy of --resume or --finetune, then stop");
    add_processes(flags, o);
    flags.add_unsupported();
}

void define_softlabel(FlagTable& flags, Options& o) {
    flags.group("Teacher and labels");
    flags.add("--teacher", o.labels.teacher, "checkpoint of the model that labels");
    flags.add("--softlabel_path", o.labels.path, "label file or, with --form tree, folder to write");
    flags.add("--form", o.labels.form, "packed: one file; tree: one file of torch.save a picture");
    flags.add("--reference_path", o.labels.reference, "labels whose crops are taken, instead of drawing any");
    flags.add("--pack", o.labels.pack,
              "pack this tree of label files; no teacher is asked. With --data in the order of its pictures");
    flags.add("--unpack", o.labels.unpack, "write the labels of this packed file as a tree");
    flags.add("--soft_label_type", o.labels.type,
              "ori, hard, smoothing, marginal_smoothing_k5, marginal_smoothing_k10 or marginal_renorm_k5");
    flags.add("--crops-per-image", o.labels.crops_per_image, "labelled crops of every picture");
    flags.add("--min-crop-area", o.labels.min_crop_area, "smallest share of the picture in a crop");
    flags.add("--max-crop-area", o.labels.max_crop_area, "largest share of the picture in a crop");
    add_model(flags, o.model, false);
    flags.add("--num_classes", o.model.num_classes, "--pack without --data: classes to write down; 0: none");
    add_data(flags, o.data, false);
    flags.add("--hflip", o.data.hflip, "probability of a horizontal flip");
    add_run(flags, o.run);
}

void define_pack(FlagTable& flags, Options& o) {
    flags.group("Files");
    flags.add("dir,--data", o.pack.dir, "folder with train/<class>/, and val/<class>/ or test/<class>/");
    flags.add("out,--output", o.pack.out, "new folder for the shards");
    flags.add("--shard-size", o.pack.shard_size, "MB (10^6 bytes) in a shard, at most");
    flags.group("Pictures");
    flags.add("--resize", o.pack.resize,
              "bring pictures whose shorter side is longer to this one, and write them as JPEG; 0: every "
              "picture keeps its bytes");
    flags.add("--quality", o.pack.quality, "of these JPEGs");
    flags.group("Run");
    flags.add("--threads", o.run.threads, "threads that decode and encode; 0: all cores");
}

void define_unpack(FlagTable& flags, Options& o) {
    flags.group("Files");
    flags.add("dir,--data", o.pack.dir, "folder that `vvtq pack` wrote");
    flags.add("out,--output", o.pack.out, "new folder for the pictures");
}

void define_convert(FlagTable& flags, Options& o) {
    flags.group("Files");
    flags.add("in,--input", o.convert.input, "checkpoint to read: .safetensors, or .pth of torch.save");
    flags.add("out,--output", o.convert.output, "file to write: .safetensors or .pth");
    flags.add_switch("--drop-optimizer", o.convert.drop_optimizer, "leave the optimizer's moments out");
    add_model(flags, o.model, false);
    flags.add("--num_classes", o.model.num_classes, "0: as many as the file has");
}

void define_export(FlagTable& flags, Options& o) {
    flags.group("Files");
    flags.add("checkpoint,--checkpoint", o.exporting.checkpoint, "checkpoint of the model");
    flags.add("out,--output", o.exporting.output, "file to write or replace: .safetensors (packed) or .onnx");
    flags.add_switch("--float16", o.exporting.float16,
                     "packed: write floats of 16 bits, not 32; codes stay exact");
    flags.group("ONNX");
    flags.add(
        "--input", o.exporting.input,
        "what the ONNX model takes: float, normalized pictures; pixels, bytes 0..255 that it normalizes");
    flags.add(
        "--style", o.exporting.style,
        "how activations are quantized: uint8, the fastest in onnxruntime; int8-clip; native, in types of "
        "their own width");
    flags.add("--opset", o.exporting.opset,
              "version of ONNX's operators, 20..27; 0: the lowest that has the types of this model");
    add_foreign_model(flags, o);
}

/// Where a model computes.
void add_place(FlagTable& flags, RunFlags& run, const char* precision) {
    flags.group("Run");
    flags.add("--device", run.device, "auto, cpu or cuda");
    flags.add("--gpu", run.gpu, "which GPU; -1: the first");
    flags.add("--precision", run.precision, precision);
    flags.add("--threads", run.threads, "computing threads; 0: all cores");
}

void define_predict(FlagTable& flags, Options& o) {
    o.data.batch_size = 32;
    flags.group("Files");
    flags.add("checkpoint,--checkpoint", o.predict.checkpoint, "checkpoint of the model");
    flags.add("images,--images", o.predict.images, "pictures, and folders whose pictures are taken")
        ->expected(-1);
    flags.add("--class-names", o.predict.class_names,
              "file with one class name a line; left out: the names in the checkpoint");
    flags.group("Output");
    flags.add("--topk", o.predict.topk, "how many of the most probable classes to print");
    flags.add_switch("--json", o.predict.json, "one JSON object a line");
    flags.add_switch("--logits", o.predict.logits, "with --json: the logits too");
    flags.group("Pictures");
    flags.add_switch("--center-crop", o.predict.center_crop,
                     "the central 224 of 256, whatever crop the checkpoint names");
    flags.add_switch("--whole", o.predict.whole, "the whole picture, squeezed to a square");
    flags.add("--on-bad-image", o.data.on_bad_image,
              "error, or skip: pictures that cannot be decoded are left out and counted");
    flags.add("-b,--batch-size", o.data.batch_size, "pictures in a batch");
    flags.add("-j,--workers", o.data.workers, "loading threads");
    add_foreign_model(flags, o);
    add_place(flags, o.run, kPrecisionHelp);
}

void define_inspect(FlagTable& flags, Options& o) {
    o.data.batch_size = 32;
    flags.group("Files");
    flags.add("checkpoint,--checkpoint", o.inspect.checkpoint, "checkpoint of a quantized model");
    flags.add("--compare", o.inspect.compare, "a second checkpoint, for the JSON file and the page");
    flags.add("--metrics", o.inspect.metrics, "metrics.jsonl of one run or several, for --json and --html")
        ->expected(-1);
    flags.group("Output");
    flags.add("--json", o.inspect.json, "JSON file to write all figures to");
    flags.add("--html", o.inspect.html, "HTML file to write: a page of all figures");
    flags.add("--sort", o.inspect.sort, "severity, name, snr, clipped, entropy, bytes or sensitivity");
    flags.add_switch("--by-kind", o.inspect.by_kind,
                     "one row for each kind of module: how its values vary, on average");
    flags.group("Pictures");
    flags.add("--data", o.data.dir,
              "folder with val/<class>/ (or test/), or with idx files: adds activations");
    flags.add("--dataset", o.data.dataset, "folder, fashion-mnist or cifar10");
    flags.add("--pictures", o.inspect.pictures, "at most so many, spread evenly over the evaluation set");
    flags.add_switch("--sensitivity", o.inspect.sensitivity,
                     "loss and accuracy where each quantizer alone is float, and where it alone has 2 bits");
    flags.add("--on-bad-image", o.data.on_bad_image,
              "error, or skip: pictures that cannot be decoded are left out and counted");
    flags.add("-b,--batch-size", o.data.batch_size,
              "pictures in a batch; activations are those of the first");
    flags.add("-j,--workers", o.data.workers, "loading threads");
    flags.group("Bits by layer");
    flags.add("--suggest-bits", o.inspect.suggest_bits,
              "budget for widths by name, from --sensitivity: a number, or what widths such as W3A3 cost");
    flags.add("--budget-of", o.inspect.budget_of, "operations or bytes");
    flags.add("--bits-out", o.inspect.bits_out, "file to write them to, for --bits of `vvtq train`");
    add_foreign_model(flags, o);
    add_place(flags, o.run, "bf16, tf32 or fp32 on a GPU, fp32 or fp64 on the CPU; auto: bf16 and fp32");
}

/// What `bench step` and `bench op` share.
void add_bench_model(FlagTable& flags, Options& o, const char* steps_help) {
    o.data.batch_size = 16;
    o.model.name = "deit_tiny_patch16_224_quant";
    add_model(flags, o.model, false);
    flags.add("-b,--batch-size", o.data.batch_size, "pictures in a step, on this machine");
    add_quantizer(flags, o.quantizer);
    flags.group("Run");
    flags.add("--steps", o.bench.steps, steps_help);
    add_run(flags, o.run);
}

void define_bench_step(FlagTable& flags, Options& o) {
    add_bench_model(flags, o, "timed steps, after three that are not");
    flags.add_switch("-e,--evaluate", o.run.evaluate, "time the forward pass of an evaluation instead");
    add_processes(flags, o);
}

void define_bench_op(FlagTable& flags, Options& o) {
    add_bench_model(flags, o, "timed runs of each kernel, after three that are not");
}

void define_bench_predict(FlagTable& flags, Options& o) {
    flags.group("Files");
    flags.add("checkpoint,--checkpoint", o.predict.checkpoint,
              "checkpoint or packed file of the model; left out: random weights");
    add_model(flags, o.model, false);
    flags.add("--num_classes", o.model.num_classes, "0: as many as the file or the published model has");
    flags.add("--wbits", o.quantizer.wbits, "bits of weights, where no file says them: 1..8");
    flags.add("--abits", o.quantizer.abits, "bits of activations, where no file says them: 1..8");
    flags.group("Run");
    flags.add("-b,--batch-size", o.bench.batches,
              "pictures in a forward pass; they lie in memory, decoding is not timed");
    flags.add("--threads", o.bench.threads,
              "computing threads, each number with each batch size; 0: all cores");
    flags.add("--precision", o.run.precision,
              "of the quantized model: int8 or fp32; auto: each that it can have. Floats stand beside it");
    flags.add("--turns", o.bench.turns,
              "how often each model has its turn, of a quarter of a second or one forward pass");
    flags.add_switch("--no-memory", o.bench.no_memory,
                     "leave the peak memory out, which takes further processes");
    flags.add("--seed", o.run.seed, "decides pictures and random weights");
}

void define_bench_loader(FlagTable& flags, Options& o) {
    o.data.batch_size = 512;
    flags.group("Data");
    flags.add("dir,--data", o.bench.dir, "folder with train/<class>/");
    flags.add("--dataset", o.data.dataset, "folder, fashion-mnist or cifar10");
    flags.add("--crops", o.bench.crops, "crops of each picture");
    flags.add("--img-size", o.bench.img_size, "side of a crop");
    flags.add("-b,--batch-size", o.data.batch_size, "crops in a batch");
    flags.add("-j,--workers", o.data.workers, "loading threads");
    add_decode(flags, o.data);
    flags.group("Run");
    flags.add("--seconds", o.bench.seconds, "length of the measurement");
    flags.add("--seed", o.run.seed, "decides which crops are drawn");
}

void define_bench_train(FlagTable& flags, Options& o) {
    o.model.name = "deit_tiny_patch16_224_quant";
    flags.group("Data");
    flags.add("dir,--data", o.bench.dir, "folder with train/<class>/, or packed");
    flags.add("--dataset", o.data.dataset, "folder, fashion-mnist or cifar10");
    flags.add("--crops", o.bench.crops, "crops of each picture");
    flags.add("-b,--batch-size", o.data.batch_size, "crops in a batch");
    flags.add("-j,--workers", o.bench.workers, "loading threads; each number is measured");
    add_decode(flags, o.data);
    add_model(flags, o.model, false);
    flags.add("--num_classes", o.model.num_classes, "0: as many as the data set has");
    add_quantizer(flags, o.quantizer);
    flags.group("Run");
    flags.add("--seconds", o.bench.seconds, "length of each measurement");
    add_run(flags, o.run);
}

/// Where --config gave the flag that `message` begins with; empty where the command line did.
std::string place_of_flag(const std::string& message, const Options& options) {
    for (const Flag& flag : options.flags) {
        if (message.starts_with(flag.name + ":") || message.starts_with(flag.name + " ")) return flag.place;
    }
    return "";
}

/// CLI11's messages can have several lines.
std::string one_line(std::string text) {
    for (char& c : text) c = c == '\n' ? ' ' : c;
    return text;
}

}  // namespace

std::unique_ptr<Options> parse_options(const std::vector<std::string>& arguments) {
    auto options = std::make_unique<Options>();
    CLI::App app("vvtq trains low-bit vision transformers.\n`vvtq COMMAND --help` lists a command's flags.",
                 "vvtq");
    app.require_subcommand(1);
    app.set_version_flag("--version", std::string("vvtq " VVTQ_VERSION));
    CLI::App* bench = app.add_subcommand("bench", "measure")->require_subcommand(1);
    using Define = void (*)(FlagTable&, Options&);
    struct Entry {
        CLI::App* parent;
        const char* name;
        Define define;
        const char* help;
    };
    const Entry entries[] = {
        {&app, "pretrain", define_pretrain, "train a full-precision model"},
        {&app, "softlabel", define_softlabel, "let a teacher label crops of the training pictures"},
        {&app, "train", define_train, "quantization-aware training; --evaluate only measures"},
        {&app, "predict", define_predict, "tell the classes of pictures"},
        {&app, "inspect", define_inspect, "tell what the quantizers of a checkpoint do"},
        {&app, "pack", define_pack, "put pictures into tar shards, which --data takes"},
        {&app, "unpack", define_unpack, "write the pictures of shards into folders again"},
        {&app, "convert", define_convert, "write a checkpoint as .safetensors or .pth"},
        {&app, "export", define_export, "write a trained model packed, or as ONNX"},
        {bench, "step", define_bench_step, "time a training step beside its matrix products"},
        {bench, "op", define_bench_op, "time the kernels of a step one by one, beside the device's ceilings"},
        {bench, "predict", define_bench_predict,
         "time predictions on the CPU beside a model in floats; sizes of files, memory"},
        {bench, "train", define_bench_train, "time training end to end, beside the step alone"},
        {bench, "loader", define_bench_loader, "count the crops a second that pictures in folders give"},
    };
    // Defaults depend on the command, so only the named one gets its flags.
    const auto named = [&](size_t i, const char* name) {
        return arguments.size() > i && arguments[i] == name;
    };
    std::unique_ptr<FlagTable> table;
    for (const Entry& entry : entries) {
        CLI::App* sub = entry.parent->add_subcommand(entry.name, entry.help)->group("Commands");
        if (entry.parent == bench ? named(0, "bench") && named(1, entry.name) : named(0, entry.name)) {
            table = std::make_unique<FlagTable>(*sub, *options);
            entry.define(*table, *options);
            options->command = (entry.parent == bench ? "bench " : "") + std::string(entry.name);
        }
    }
    if (table == nullptr && !arguments.empty() && !arguments[0].starts_with("-") && !named(0, "bench")) {
        engine::input_error("unknown command ", arguments[0],
                            "; commands are pretrain, softlabel, train, predict, inspect, pack, unpack, "
                            "convert, export, bench "
                            "step, bench op, bench predict, bench loader, bench train");
    }
    std::vector<std::string> words = table != nullptr ? table->in_own_spelling(arguments) : arguments;
    std::reverse(words.begin(), words.end());  // as CLI11 takes them
    try {
        app.parse(std::move(words));
        VVTQ_CHECK(table != nullptr, "a command line without a command was parsed");
        table->finish();
    } catch (const CLI::Success& request) {  // --help, --version
        std::ostringstream out, unused;
        app.exit(request, out, unused);
        options->command.clear();
        options->help = out.str();
        return options;
    } catch (const CLI::ExtrasError&) {
        std::string extra;
        for (const std::string& word : app.remaining(true)) extra += " " + data::printable(word);
        engine::input_error("not understood:", extra, "; see `vvtq ", options->command, " --help`");
    } catch (const CLI::ParseError& error) {
        engine::input_error(one_line(error.what()), "; see `vvtq ", options->command,
                            options->command.empty() ? "" : " ", "--help`");
    }
    try {
        options->with_flags_in_errors([&] {
            if (options->given("--bits")) options->quantizer.bits = read_bits_file(options->quantizer.bits);
            check_ranges(*options);
            if (options->run.resume.empty()) check_effects(*options);  // else the checkpoint has flags too
        });
    } catch (const engine::Error& error) {
        throw engine::Error(error.fault(), place_of_flag(error.what(), *options) + error.what());
    }
    return options;
}

}  // namespace vvtq::apps
