// Flags that change nothing beside the others that were given: a command says so instead of ignoring them.
#include <algorithm>

#include "apps/options/options.h"
#include "data/augment.h"
#include "data/label_types.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace {

bool is_low(int bits) { return bits != -1 && bits != 32; }

/// Asks of one command line which flags it gives.
struct Given {
    const Options& options;

    /// The flags `names` do nothing, because of `reason`.
    void useless(const std::vector<std::string>& names, const std::string& reason) const {
        for (const std::string& name : names) {
            if (options.given(name)) {
                engine::input_error(name, ": has no effect ", reason, "; leave it out");
            }
        }
    }
    /// All flags but `names` do nothing.
    void useless_but(const std::vector<std::string>& names, const std::string& reason) const {
        for (const Flag& flag : options.flags) {
            if (std::find(names.begin(), names.end(), flag.name) == names.end()) useless({flag.name}, reason);
        }
    }
};

void check_crops(const Given& given, const Options& o) {
    const std::vector<std::string> cuts{"--scale", "--ratio", "--hflip"};
    if (!o.labels.path.empty() && o.command == "train") {
        const char* reason = "with --softlabel_path, whose labels say how pictures are cropped and mirrored";
        given.useless(cuts, reason);
        if (o.data.no_aug) given.useless({"--no-aug"}, reason);
        if (o.labels.smoothing > 0) {
            given.useless({"--smoothing"}, "with --softlabel_path, whose labels are the targets");
        }
    } else {
        given.useless({"--soft_label_type"}, "without --softlabel_path");
    }
    if (o.data.no_aug) given.useless(cuts, "with --no-aug, which takes whole pictures");
}

void check_augmentation(const Given& given, const Options& o) {
    const DataFlags& d = o.data;
    if (d.color_jitter > 0 && data::parse_rand_augment(d.auto_augment).layers > 0) {
        given.useless({"--color-jitter"}, "with --aa, which changes the colors itself");
    }
    if (d.erase_probability == 0) given.useless({"--remode", "--recount"}, "without --reprob");
    const bool cuts = d.cutmix > 0 || !d.cutmix_minmax.empty();
    if (!cuts && d.mixup == 0) given.useless({"--mixup-prob", "--mixup-mode"}, "without --mixup or --cutmix");
    if (!cuts || d.mixup == 0)
        given.useless({"--mixup-switch-prob"}, "unless both --mixup and --cutmix are on");
}

void check_pictures(const Given& given, const Options& o) {
    if (o.data.dataset == "fashion-mnist" && o.data.decode == "fast") {
        given.useless({"--decode"}, "with --dataset fashion-mnist, which holds no JPEGs");
    }
    if (o.data.dataset == "fashion-mnist" && o.data.on_bad_image == "skip") {
        given.useless({"--on-bad-image"}, "with --dataset fashion-mnist, whose files are read whole");
    }
}

void check_training(const Given& given, const Options& o) {
    if (o.run.finetune.empty()) given.useless({"--keep-steps"}, "without --finetune");
    if (o.run.evaluate) return;  // the training's own command may be given with --evaluate in front
    check_crops(given, o);
    check_augmentation(given, o);
    if (o.optimizer.warmup_epochs == 0) given.useless({"--warmup-lr"}, "with --warmup-epochs 0");
    if (!has_low_bits(o.quantizer) && o.quantizer.head_wise) {
        given.useless({"--head-wise"}, "on attention in floats: set --wbits and --abits");
    }
}

void check_oscillation(const Given& given, const Options& o) {
    const QuantizerFlags& q = o.quantizer;
    const std::vector<std::string> freezing{"--freeze-osc", "--freeze-osc-end"};
    if (o.run.evaluate) {
        if (o.command == "bench step") given.useless({"--track-osc"}, "with --evaluate");
        return;
    }
    if (q.track_oscillation && !is_low(q.wbits) && q.bits.empty()) {
        given.useless({"--track-osc"}, "on weights in floats: set --wbits");
    }
    if (!q.track_oscillation) given.useless(freezing, "without --track-osc");
    if (q.wbits == 1) given.useless(freezing, "on weights of 1 bit");
    if (q.freeze_threshold == 0) given.useless({"--freeze-osc-end"}, "without --freeze-osc");
}

void check_labelling(const Given& given, const Options& o) {
    const LabelFlags& labels = o.labels;
    if (!labels.pack.empty() && !labels.unpack.empty()) {
        engine::input_error("--pack: leave it or --unpack out");
    }
    if (!labels.pack.empty()) {
        given.useless_but({"--pack", "--softlabel_path", "--soft_label_type", "--data", "--dataset",
                           "--num_classes", "--threads", "--dry-run"},
                          "with --pack, which asks no teacher");
        if (given.options.given("--data") || given.options.given("--dataset")) {
            given.useless({"--num_classes"}, "with --pack and --data: the classes are those of the pictures");
        }
        if (labels.type == "ori") given.useless({"--num_classes"}, "with labels of type ori, which tell it");
    } else if (!labels.unpack.empty()) {
        given.useless_but({"--unpack", "--softlabel_path", "--threads", "--dry-run"},
                          "with --unpack: the file tells it");
    } else if (!labels.reference.empty()) {
        given.useless({"--min-crop-area", "--max-crop-area", "--hflip"},
                      "with --reference_path, whose crops are taken");
    }
}

void check_conversion(const Given& given, const Options& o) {
    if (!o.model.name.empty()) return;
    given.useless_but({"--input", "--output", "--drop-optimizer"},
                      "without --model: tensors keep their names");
}

void check_export(const Given& given, const Options& o) {
    if (o.exporting.output.ends_with(".onnx")) {
        given.useless({"--float16"}, "on ONNX, which is written with floats of 32 bits");
    } else {
        given.useless({"--input", "--style", "--opset"}, "without an output that ends in .onnx");
    }
}

void check_inspection(const Given& given, const Options& o) {
    if (!given.options.given("--data") && !given.options.given("--dataset")) {
        given.useless({"--pictures", "--sensitivity", "--on-bad-image", "--batch-size", "--workers"},
                      "without --data or --dataset");
    }
    if (o.inspect.by_kind) given.useless({"--sort"}, "with --by-kind, whose rows are in the model's order");
    if (o.inspect.sort == "sensitivity" && !o.inspect.sensitivity) {
        engine::input_error("--sort: sensitivity needs --sensitivity");
    }
    if (o.inspect.suggest_bits.empty()) {
        given.useless({"--bits-out", "--budget-of"}, "without --suggest-bits");
    } else if (!o.inspect.sensitivity) {
        engine::input_error("--suggest-bits: needs --sensitivity, and pictures with --data or --dataset");
    }
    if (o.inspect.json.empty() && o.inspect.html.empty()) {
        given.useless({"--compare", "--metrics"}, "without --json or --html");
    }
}

}  // namespace

bool has_low_bits(const QuantizerFlags& quantizer) {
    return is_low(quantizer.wbits) || is_low(quantizer.abits) || !quantizer.bits.empty();
}

void check_effects(const Options& o) {
    const Given given{o};
    const bool trains = o.command == "train" || o.command == "pretrain";
    if (o.run.device == "cpu" || o.run.precision == "fp64") given.useless({"--no-graph"}, "on the CPU");
    if (o.command == "bench op") given.useless({"--no-graph"}, "where kernels run one by one anyway");
    if (o.command == "bench step" && o.run.evaluate) given.useless({"--reg"}, "with --evaluate");
    if (trains) check_training(given, o);
    if (o.command == "softlabel") check_labelling(given, o);
    if (o.command == "convert") check_conversion(given, o);
    if (o.command == "export") check_export(given, o);
    if (o.command == "pack" && o.pack.resize == 0) given.useless({"--quality"}, "without --resize");
    if (o.command == "inspect") check_inspection(given, o);
    if (!o.run.evaluate) check_pictures(given, o);
    check_oscillation(given, o);
    if (o.quantizer.reg && !has_low_bits(o.quantizer) && !o.run.evaluate) {
        engine::input_error("--reg: needs quantized weights; set --wbits and --abits");
    }
}

}  // namespace vvtq::apps
