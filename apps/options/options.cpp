#include "apps/options/options.h"

#include <algorithm>
#include <utility>

#include "data/augment.h"
#include "data/mixing.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace {

void require(bool holds, const char* flag, const char* rule) {
    if (!holds) {
        engine::input_error(flag, ": must be ", rule);
    }
}

bool in_range(double value, double low, double high) { return value >= low && value <= high; }

}  // namespace

void check_ranges(const Options& o) {
    require(o.data.batch_size >= 1 && o.data.batch_size <= 1000000, "--batch-size", "1..1000000");
    require(o.data.workers >= 0 && o.data.workers <= 256, "--workers", "0..256");
    const auto range = [](const std::vector<double>& v, double high) {
        return v.size() == 2 && v[0] > 0 && v[0] <= v[1] && v[1] <= high;
    };
    require(range(o.data.scale, 1), "--scale", "two numbers, 0 < low <= high <= 1");
    require(range(o.data.ratio, 100), "--ratio", "two numbers, 0 < low <= high <= 100");
    require(in_range(o.data.hflip, 0, 1), "--hflip", "0..1");
    require(o.data.crop_pct == 0 || in_range(o.data.crop_pct, 0.1, 1), "--crop-pct", "0 or 0.1..1");
    require(o.data.on_bad_image == "error" || o.data.on_bad_image == "skip", "--on-bad-image",
            "error or skip");
    const std::string& interpolation = o.data.train_interpolation;
    require(interpolation == "bilinear" || interpolation == "bicubic" || interpolation == "random",
            "--train-interpolation", "bilinear, bicubic or random");
    data::parse_rand_augment(o.data.auto_augment);
    data::parse_erase_mode(o.data.erase_mode);
    data::parse_mix_mode(o.data.mixup_mode);
    require(in_range(o.data.color_jitter, 0, 10), "--color-jitter", "0..10");
    require(in_range(o.data.erase_probability, 0, 1), "--reprob", "0..1");
    require(o.data.erase_count >= 1 && o.data.erase_count <= 100, "--recount", "1..100");
    require(in_range(o.data.mixup, 0, 1000), "--mixup", "0..1000");
    require(in_range(o.data.cutmix, 0, 1000), "--cutmix", "0..1000");
    require(o.data.cutmix_minmax.empty() || range(o.data.cutmix_minmax, 1), "--cutmix-minmax",
            "two numbers, 0 < low <= high <= 1");
    require(in_range(o.data.mixup_probability, 0, 1), "--mixup-prob", "0..1");
    require(in_range(o.data.mixup_switch_probability, 0, 1), "--mixup-switch-prob", "0..1");
    require(o.labels.form == "packed" || o.labels.form == "tree", "--form", "packed or tree");
    for (const auto& [flag, size] :
         {std::pair{"--img-size", o.model.img_size}, std::pair{"--patch-size", o.model.patch_size},
          std::pair{"--embed-dim", o.model.embed_dim}, std::pair{"--depth", o.model.depth},
          std::pair{"--window-size", o.model.window_size}, std::pair{"--num_classes", o.model.num_classes}}) {
        require(size >= 0 && size <= 100000, flag, "0..100000");
    }
    for (const auto& [flag, sizes] :
         {std::pair{"--depths", o.model.depths}, std::pair{"--num-heads", o.model.num_heads}}) {
        const bool sane = sizes.size() <= 8 && std::all_of(sizes.begin(), sizes.end(), [](int64_t size) {
                              return size >= 1 && size <= 100000;
                          });
        require(sane, flag, "1 to 8 numbers of 1..100000");
    }
    require(o.model.drop_path >= 0 && o.model.drop_path < 1, "--drop-path", "at least 0 and below 1");
    require(o.labels.num_crops >= 1 && o.labels.num_crops <= 10000, "--num_crops", "1..10000");
    require(o.labels.crops_per_image >= 1 && o.labels.crops_per_image <= 65536, "--crops-per-image",
            "1..65536");
    require(o.labels.smoothing >= 0 && o.labels.smoothing < 1, "--smoothing", "at least 0 and below 1");
    require(o.labels.min_crop_area > 0 && o.labels.min_crop_area <= o.labels.max_crop_area &&
                o.labels.max_crop_area <= 1,
            "--min-crop-area", "above 0 and at most --max-crop-area, which is at most 1");
    const OptimizerFlags& opt = o.optimizer;
    require(opt.epochs >= 1 && opt.epochs <= 1000000, "--epochs", "1..1000000");
    require(opt.start_epoch >= 0 && opt.start_epoch < opt.epochs, "--start-epoch",
            "at least 0 and below --epochs");
    require(opt.warmup_epochs >= 0, "--warmup-epochs", "at least 0");
    require(in_range(opt.lr, 0, 1e300), "--lr", "a number of at least 0");
    require(in_range(opt.min_lr, 0, 1e300), "--min-lr", "a number of at least 0");
    require(in_range(opt.warmup_lr, 0, 1e300), "--warmup-lr", "a number of at least 0");
    require(in_range(opt.weight_decay, 0, 1e300), "--weight-decay", "a number of at least 0");
    require(opt.eps > 0 && opt.eps <= 1, "--opt-eps", "above 0 and at most 1");
    require(opt.betas.size() == 2 && opt.betas[0] >= 0 && opt.betas[0] < 1 && opt.betas[1] >= 0 &&
                opt.betas[1] < 1,
            "--opt-betas", "two numbers of at least 0 and below 1");
    require(in_range(opt.clip_grad, 0, 1e300), "--clip-grad", "a number of at least 0");
    require(o.run.threads >= 0 && o.run.threads <= 4096, "--threads", "0..4096");
    require(o.run.max_steps >= 0, "--max-steps", "at least 0");
    require(o.run.print_freq >= 1, "--print-freq", "at least 1");
    require(o.bench.steps >= 3 && o.bench.steps <= 100000, "--steps", "3..100000");
    require(o.bench.crops >= 1 && o.bench.crops <= 500, "--crops", "1..500");
    require(o.bench.seconds > 0 && o.bench.seconds <= 3600, "--seconds", "above 0 and at most 3600");
    const std::string& device = o.run.device;
    require(device == "auto" || device == "cpu" || device == "cuda", "--device", "auto, cpu or cuda");
    const std::string& precision = o.run.precision;
    require(precision == "auto" || precision == "fp32" || precision == "fp64" || precision == "tf32" ||
                precision == "bf16",
            "--precision", "auto, fp32, fp64, tf32 or bf16");
    require(o.run.gpu >= -1 && o.run.gpu <= 1023, "--gpu", "0..1023");
    require(o.run.gpu < 0 || device != "cpu", "--gpu", "left out with --device cpu");
}

bool Options::given(const std::string& name) const {
    return std::any_of(flags.begin(), flags.end(), [&](const Flag& f) { return f.name == name && f.given; });
}

std::map<std::string, std::string> Options::course() const {
    std::map<std::string, std::string> values;
    for (const Flag& flag : flags) {
        if (flag.course) {
            values[flag.name.substr(2)] = flag.get();
        }
    }
    return values;
}

void Options::adopt_course(const std::map<std::string, std::string>& saved, const std::string& checkpoint,
                           const std::vector<std::string>& names) {
    std::string contradictions;
    for (Flag& flag : flags) {
        const auto value = saved.find(flag.name.substr(2));
        const bool wanted = names.empty() || std::find(names.begin(), names.end(), flag.name) != names.end();
        if (!flag.course || !wanted || value == saved.end()) {
            continue;
        }
        if (!flag.given || (flag.name == "--precision" && flag.get() == "auto")) {
            if (!flag.set(value->second)) {
                engine::input_error(checkpoint, ": value '", value->second, "' of ", flag.name,
                                    " in its metadata is damaged; name another file");
            }
        } else if (flag.get() != value->second) {
            contradictions += (contradictions.empty() ? "" : ", ") + flag.name + " " + flag.get() +
                              " (there " + value->second + ")";
        }
    }
    check_ranges(*this);
    if (!contradictions.empty()) {
        engine::input_error("--resume: ", checkpoint, " was trained with other flags: ", contradictions,
                            "; leave these flags out or start afresh");
    }
}

const char* name_of(Command command) {
    switch (command) {
        case Command::pretrain:
            return "pretrain";
        case Command::softlabel:
            return "softlabel";
        case Command::train:
            return "train";
        case Command::bench_step:
            return "bench step";
        case Command::bench_op:
            return "bench op";
        case Command::bench_loader:
            return "bench loader";
        case Command::help:
            break;
    }
    return "help";
}

}  // namespace vvtq::apps
