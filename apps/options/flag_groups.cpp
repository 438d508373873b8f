// Groups of flags that several commands share.
#include "apps/options/flag_groups.h"

#include <algorithm>

namespace vvtq::apps {

namespace {

/// The sizes that flags can ask for, each name once; their values in `sizes` are "not asked for". A size that
/// is a list in one family and a number in another is a list.
std::vector<nn::Field> askable_fields(std::map<std::string, nn::Size>& sizes) {
    std::vector<nn::Field> fields;
    for (const nn::Family& family : nn::families()) {
        for (const nn::Field& field : family.fields) {
            if (field.help.empty()) continue;
            const nn::Size published = field.get(family.presets.front());
            if (sizes.count(field.name) == 0) fields.push_back(field);
            const bool list = std::holds_alternative<std::vector<int64_t>>(published);
            if (list) {
                sizes[field.name] = std::vector<int64_t>();
            } else if (sizes.count(field.name) == 0) {
                sizes[field.name] =
                    std::holds_alternative<double>(published) ? nn::Size(0.0) : nn::Size(int64_t{0});
            }
        }
    }
    return fields;
}

}  // namespace

void add_model(FlagTable& flags, ModelFlags& model, bool trains) {
    flags.group("Model");
    flags.add("--model", model.name, "published name, such as deit_tiny_patch16_224_quant");
    for (const nn::Field& field : askable_fields(model.sizes)) {
        std::visit(
            [&](auto& target) {
                const bool list = std::is_same_v<decltype(target), std::vector<int64_t>&>;
                flags.add(flag_of(field.name), target,
                          field.help + (list ? "; left out: the model's own" : "; 0: the model's own"));
            },
            model.sizes.at(field.name));
    }
    if (trains) {
        flags.add("--num_classes", model.num_classes, "0: as many as the data set has");
        flags.add("--drop-path", model.drop_path, "stochastic depth rate of the last block", true);
    }
}

void add_foreign_model(FlagTable& flags, Options& o) {
    add_model(flags, o.model, false);
    flags.add("--num_classes", o.model.num_classes, "0: as many as the file has");
    flags.add("--wbits", o.quantizer.wbits, "needed where a quantized file does not say its bit widths");
    flags.add("--abits", o.quantizer.abits, "needed where a quantized file does not say its bit widths");
    flags.add("--bits", o.quantizer.bits, "with --wbits and --abits: file of `\"name\" = bits` lines for some quantizers");
}

void add_decode(FlagTable& flags, DataFlags& data) {
    flags.add(
        "--decode", data.decode,
        "exact: Pillow's pixels; fast: training pictures whose crops are shrunk by 2 or more are decoded "
        "from JPEG at a lower resolution",
        true);
}

void add_data(FlagTable& flags, DataFlags& data, bool augments) {
    flags.group("Data");
    flags.add("--data", data.dir,
              "folder with train/<class>/ and val/<class>/ (or test/), or with idx files");
    flags.add("--dataset", data.dataset, "folder, fashion-mnist or cifar10");
    flags.add("-b,--batch-size", data.batch_size, "crops in a batch, shared by the processes of this machine",
              true);
    flags.add("-j,--workers", data.workers, "loading threads of this machine");
    flags.add("--on-bad-image", data.on_bad_image,
              "error, or skip: pictures that cannot be decoded are left out and counted", true);
    if (augments) {
        add_decode(flags, data);
        flags.add_pair("--scale", data.scale, "random crops: range of the area share");
        flags.add_pair("--ratio", data.ratio, "random crops: range of width / height");
        flags.add("--hflip", data.hflip, "random crops: probability of a horizontal flip", true);
        flags.add_switch("--no-aug", data.no_aug, "train on whole pictures, neither cropped nor mirrored",
                         true);
        flags.add("--crop-pct", data.crop_pct,
                  "evaluation: share of the shorter side that is kept; 0: 0.875, or 1 for fashion-mnist and "
                  "cifar10");
    }
}

void add_augmentation(FlagTable& flags, DataFlags& data) {
    flags.group("Augmentation");
    flags.add("--train-interpolation", data.train_interpolation, "bilinear, bicubic or random", true);
    flags.add("--aa", data.auto_augment, "RandAugment, such as rand-m9-mstd0.5-inc1, or none", true);
    flags.add("--color-jitter", data.color_jitter,
              "strength of brightness, contrast and saturation; without --aa only", true);
    flags.add("--reprob", data.erase_probability, "random erasing: probability", true);
    flags.add("--remode", data.erase_mode, "random erasing: const, rand or pixel", true);
    flags.add("--recount", data.erase_count, "random erasing: most rectangles in a picture", true);
    flags.add("--mixup", data.mixup, "mixup: alpha of its beta distribution; 0: none", true);
    flags.add("--cutmix", data.cutmix, "cutmix: alpha of its beta distribution; 0: none", true);
    flags.add_pair("--cutmix-minmax", data.cutmix_minmax, "cutmix: range of a rectangle's sides");
    flags.add("--mixup-prob", data.mixup_probability, "probability of mixup or cutmix", true);
    flags.add("--mixup-switch-prob", data.mixup_switch_probability, "probability of cutmix where both are on",
              true);
    flags.add("--mixup-mode", data.mixup_mode, "who shares a draw: batch, pair or elem", true);
    flags.add_switch("--repeated-aug,!--no-repeated-aug", data.repeated_augmentation,
                     "three augmented crops of a picture in a row", true);
}

void add_optimizer(FlagTable& flags, OptimizerFlags& optimizer) {
    flags.group("Optimizer and schedule");
    flags.add("--epochs", optimizer.epochs, "epochs in all, warm-up included; a resumed run may raise them",
              true);
    flags.add("--start-epoch", optimizer.start_epoch, "first epoch of a run that is not resumed");
    flags.add("--lr,--learning-rate", optimizer.lr, "learning rate after the warm-up", true);
    flags.add("--min-lr", optimizer.min_lr, "learning rate at the end", true);
    flags.add("--warmup-lr", optimizer.warmup_lr, "learning rate at the start of the warm-up", true);
    flags.add("--warmup-epochs", optimizer.warmup_epochs, "epochs of warm-up, with single crops", true);
    flags.add("--weight-decay,--wd", optimizer.weight_decay, "on weights of two or more dimensions", true);
    flags.add("--opt-eps", optimizer.eps, "AdamW's eps", true);
    flags.add_pair("--opt-betas", optimizer.betas, "AdamW's betas");
    flags.add("--clip-grad", optimizer.clip_grad, "largest norm of the gradients; 0: no clipping", true);
}

void add_run(FlagTable& flags, RunFlags& run) {
    flags.group("Run");
    flags.add("--device", run.device, "auto, cpu or cuda");
    flags.add("--gpu", run.gpu, "which GPU; -1: the first");
    flags.add("--precision", run.precision, kPrecisionHelp, true);
    flags.add_switch("--no-graph", run.no_graph,
                     "GPU: enqueue kernels one by one instead of replaying the step");
    flags.add("--threads", run.threads,
              "computing threads of this machine; 0: all cores. Results do not depend on it");
    flags.add("--seed", run.seed, "decides every random number of the run", true);
    flags.add_switch("--dry-run", run.dry_run, "check the flags, then stop");
    flags.add_config();
}

void add_training(FlagTable& flags, RunFlags& run) {
    flags.group("Run");
    flags.add("--max-steps", run.max_steps,
              "stop after this many steps since the start of training; 0: no limit");
    flags.add("--save_checkpoint_path", run.save_dir,
              "folder of checkpoint.safetensors and model_best.safetensors; a run resumed into another "
              "folder brings both along");
    flags.add("--save-every-steps", run.save_every_steps,
              "checkpoints within epochs, too: one after so many steps; 0: none");
    flags.add("--keep", run.keep,
              "keep this many numbered checkpoints, such as checkpoint-0000120.safetensors; 0 and 1: none");
    flags.add("--resume", run.resume,
              "checkpoint to go on from; auto: the newest whole one in --save_checkpoint_path");
    flags.add("--on-nan", run.on_nan,
              "where loss or gradients are not finite: stop, or skip: the step is left out");
    flags.add("--tensorboard", run.tensorboard,
              "folder for a file of all figures that TensorBoard shows; left out: none");
    flags.add("--log", run.log, "log file; metrics.jsonl lies beside it. Default: in --save_checkpoint_path");
    flags.add("-p,--print-freq", run.print_freq, "steps from one log line to the next");
    flags.add("--finetune", run.finetune, "checkpoint whose weights to start from");
    flags.add_switch(
        "--allow-partial", run.allow_partial,
        "--finetune, or --resume of another program's file: tensors that are missing or misfit start anew, "
        "unexpected ones are left out");
}

void add_processes(FlagTable& flags, Options& o) {
    LaunchFlags& launch = o.launch;
    flags.group("Several processes");
    flags.add("--nproc", launch.nproc,
              "start so many processes on this machine, each with a GPU of its own or a part of the CPU's "
              "cores; 0: start none");
    flags.add_switch("--multiprocessing-distributed", launch.multiprocessing,
                     "start one process for each GPU of this machine, or --nproc processes");
    flags.add("--world-size", launch.world_size,
              "number of machines that train together; without the two flags above: number of processes");
    flags.add(
        "--rank", launch.rank,
        "which machine this is, from 0; without --nproc and --multiprocessing-distributed: which process");
    flags.add(
        "--dist-url", launch.url,
        "where all processes meet: tcp://HOST:PORT with the host of rank 0 and a free port there, "
        "file:///PATH that all machines see, or env:// for the variables MASTER_ADDR and MASTER_PORT; can "
        "be left out if this command starts all processes, and under torchrun and SLURM");
    flags.add(
        "--dist-backend", launch.backend,
        "what adds up gradients of processes: nccl for GPUs, gloo for CPUs; left out: --device decides");
    flags.add("--dist-timeout", launch.timeout,
              "seconds after which a process that is missing, dead or stuck ends the training");
    flags.add(
        "--shards", o.parallel.shards,
        "cut each batch into so many parts that are computed one by one: then any number of processes that "
        "divides it gives the same bits, and one process needs less memory (gradient accumulation); 1: the "
        "batch as a whole",
        true);
    flags.add("--buckets", o.parallel.buckets,
              "send gradients in so many pieces, the first ones while others are still computed; 1: all at "
              "the end");
    flags.add("--reduce-precision", o.parallel.reduce_precision,
              "type in which gradients are sent and added up: fp32, or bf16 for half as many bytes");
}

void add_quantizer(FlagTable& flags, QuantizerFlags& quantizer) {
    flags.group("Quantizers");
    flags.add("--wbits", quantizer.wbits, "bits of weights: 1..8, or -1 or 32 for float", true);
    flags.add("--abits", quantizer.abits, "bits of activations: 1..8, or -1 or 32 for float", true);
    flags.add("--bits", quantizer.bits,
              "file of `name = bits` lines: quantizers whose name matches get these widths; the last match "
              "counts",
              true);
    flags.add_switch("--reg", quantizer.reg, "add the bin regularizer to the loss", true);
    flags.add_switch("--track-osc", quantizer.track_oscillation,
                     "follow which weights go back and forth between two codes", true);
    flags.add("--freeze-osc", quantizer.freeze_threshold,
              "with --track-osc: freeze weights whose oscillation frequency is above this, 0.03..1; 0: none",
              true);
    flags.add("--freeze-osc-end", quantizer.freeze_threshold_end,
              "let that threshold fall to this along half a cosine, 0.01 .. --freeze-osc; 0: it stays", true);
}

}  // namespace vvtq::apps
