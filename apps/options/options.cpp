#include "apps/options/options.h"

#include <algorithm>
#include <utility>

#include "data/augment.h"
#include "data/label_types.h"
#include "data/mixing.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace {

constexpr int64_t kLargestSize = 100000;

void require(bool holds, const std::string& flag, const char* rule) {
    if (!holds) engine::input_error(flag, ": must be ", rule);
}

bool one_of(const std::string& value, const std::vector<std::string>& names) {
    return std::find(names.begin(), names.end(), value) != names.end();
}

bool in_range(double value, double low, double high) { return value >= low && value <= high; }

void check_size(const std::string& flag, const nn::Size& size) {
    if (const auto* numbers = std::get_if<std::vector<int64_t>>(&size)) {
        const bool sane =
            numbers->size() <= 8 && std::all_of(numbers->begin(), numbers->end(),
                                                [](int64_t n) { return n >= 1 && n <= kLargestSize; });
        return require(sane, flag, "1 to 8 numbers of 1..100000");
    }
    const auto* whole = std::get_if<int64_t>(&size);
    const double value = whole != nullptr ? static_cast<double>(*whole) : std::get<double>(size);
    require(in_range(value, 0, kLargestSize), flag, "0..100000");
}

/// Fields of data/ and quant/ whose flags are called otherwise.
const std::map<std::string, std::string> kOtherFlags = {
    {"rand_augment", "--aa"}, {"erase_mode", "--remode"}, {"label_type", "--soft_label_type"}};

/// "--lr" of "lr"; empty where no flag of the command is called so.
std::string flag_named(const std::string& field, const std::vector<Flag>& flags) {
    const auto other = kOtherFlags.find(field);
    for (const Flag& flag : flags) {
        if (flag_of(flag.name.substr(2)) == flag_of(field) ||
            (other != kOtherFlags.end() && other->second == flag.name))
            return flag.name;
    }
    return "";
}

/// The text with the flags of the command instead of the fields in backquotes.
std::string with_flags(const std::string& text, const std::vector<Flag>& flags) {
    std::string result;
    size_t begin = 0;
    for (;;) {
        const size_t open = text.find('`', begin);
        const size_t close = open == std::string::npos ? open : text.find('`', open + 1);
        if (close == std::string::npos) return result + text.substr(begin);
        const std::string flag = flag_named(text.substr(open + 1, close - open - 1), flags);
        result += text.substr(begin, open - begin);
        result += flag.empty() ? text.substr(open, close + 1 - open) : flag;
        begin = close + 1;
    }
}

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
    require(one_of(o.data.on_bad_image, {"error", "skip"}), "--on-bad-image", "error or skip");
    require(one_of(o.data.decode, {"exact", "fast"}), "--decode", "exact or fast");
    require(one_of(o.data.train_interpolation, {"bilinear", "bicubic", "random"}), "--train-interpolation",
            "bilinear, bicubic or random");
    data::parse_rand_augment(o.data.auto_augment);
    data::parse_erase_mode(o.data.erase_mode);
    data::parse_mix_mode(o.data.mixup_mode);
    data::parse_label_type(o.labels.type);
    require(in_range(o.data.color_jitter, 0, 10), "--color-jitter", "0..10");
    require(in_range(o.data.erase_probability, 0, 1), "--reprob", "0..1");
    require(o.data.erase_count >= 1 && o.data.erase_count <= 100, "--recount", "1..100");
    require(in_range(o.data.mixup, 0, 1000), "--mixup", "0..1000");
    require(in_range(o.data.cutmix, 0, 1000), "--cutmix", "0..1000");
    require(o.data.cutmix_minmax.empty() || range(o.data.cutmix_minmax, 1), "--cutmix-minmax",
            "two numbers, 0 < low <= high <= 1");
    require(in_range(o.data.mixup_probability, 0, 1), "--mixup-prob", "0..1");
    require(in_range(o.data.mixup_switch_probability, 0, 1), "--mixup-switch-prob", "0..1");
    require(one_of(o.labels.form, {"packed", "tree"}), "--form", "packed or tree");
    for (const auto& [name, size] : o.model.sizes) check_size(flag_of(name), size);
    require(o.model.num_classes >= 0 && o.model.num_classes <= kLargestSize, "--num_classes", "0..100000");
    require(o.bench.img_size >= 1 && o.bench.img_size <= kLargestSize, "--img-size", "1..100000");
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
    const QuantizerFlags& q = o.quantizer;
    require(q.freeze_threshold == 0 || in_range(q.freeze_threshold, 0.03, 1), "--freeze-osc", "0.03..1");
    const double highest = q.freeze_threshold > 0 ? q.freeze_threshold : 1;
    require(q.freeze_threshold_end == 0 || in_range(q.freeze_threshold_end, 0.01, highest),
            "--freeze-osc-end", "at least 0.01 and at most --freeze-osc");
    require(o.run.threads >= 0 && o.run.threads <= 4096, "--threads", "0..4096");
    require(o.run.max_steps >= 0, "--max-steps", "at least 0");
    require(o.run.save_every_steps >= 0, "--save-every-steps", "at least 0");
    require(o.run.keep >= 0 && o.run.keep <= 1000000, "--keep", "0..1000000");
    require(one_of(o.run.on_nan, {"stop", "skip"}), "--on-nan", "stop or skip");
    require(o.run.print_freq >= 1, "--print-freq", "at least 1");
    require(o.pack.resize == 0 || in_range(o.pack.resize, 16, 65500), "--resize", "0 or 16..65500");
    require(in_range(o.pack.quality, 1, 100), "--quality", "1..100");
    require(in_range(static_cast<double>(o.pack.shard_size), 1, 1e6), "--shard-size", "1..1000000 (MB)");
    require(one_of(o.exporting.input, {"float", "pixels"}), "--input", "float or pixels");
    require(one_of(o.exporting.style, {"uint8", "int8-clip", "native"}), "--style",
            "uint8, int8-clip or native");
    require(o.predict.topk >= 1 && o.predict.topk <= 1000000, "--topk", "1..1000000");
    require(!o.predict.logits || o.predict.json, "--logits", "together with --json");
    require(!o.predict.whole || !o.predict.center_crop, "--whole", "left out with --center-crop");
    require(one_of(o.inspect.sort, {"severity", "name", "snr", "clipped", "entropy", "bytes", "sensitivity"}),
            "--sort", "severity, name, snr, clipped, entropy, bytes or sensitivity");
    require(one_of(o.inspect.budget_of, {"operations", "bytes"}), "--budget-of", "operations or bytes");
    require(o.inspect.pictures >= 1 && o.inspect.pictures <= 10'000'000, "--pictures", "1..10000000");
    require(o.bench.steps >= 3 && o.bench.steps <= 100000, "--steps", "3..100000");
    require(o.bench.crops >= 1 && o.bench.crops <= 500, "--crops", "1..500");
    const auto all = [](const std::vector<int64_t>& numbers, int64_t low, int64_t high) {
        return !numbers.empty() && numbers.size() <= 8 &&
               std::all_of(numbers.begin(), numbers.end(), [&](int64_t n) { return low <= n && n <= high; });
    };
    require(all(o.bench.batches, 1, 1000000), "--batch-size", "1 to 8 numbers of 1..1000000");
    require(all(o.bench.workers, 0, 256), "--workers", "1 to 8 numbers of 0..256");
    require(all(o.bench.threads, 0, 4096), "--threads", "1 to 8 numbers of 0..4096");
    require(o.bench.turns >= 1 && o.bench.turns <= 100000, "--turns", "1..100000");
    require(o.bench.seconds > 0 && o.bench.seconds <= 3600, "--seconds", "above 0 and at most 3600");
    require(one_of(o.run.device, {"auto", "cpu", "cuda"}), "--device", "auto, cpu or cuda");
    require(one_of(o.run.precision, {"auto", "fp32", "fp64", "tf32", "bf16", "int8"}), "--precision",
            "auto, fp32, fp64, tf32, bf16 or int8");
    require(o.launch.nproc >= 0 && o.launch.nproc <= 1024, "--nproc", "0..1024");
    require(one_of(o.launch.backend, {"", "nccl", "gloo"}), "--dist-backend", "nccl or gloo");
    require(in_range(o.launch.timeout, 1, 86400), "--dist-timeout", "1..86400 seconds");
    require(o.parallel.shards >= 1 && o.parallel.shards <= 65536, "--shards", "1..65536");
    require(o.parallel.buckets >= 1 && o.parallel.buckets <= 1000, "--buckets", "1..1000");
    require(one_of(o.parallel.reduce_precision, {"fp32", "bf16"}), "--reduce-precision", "fp32 or bf16");
    require(o.parallel.reduce_precision == "fp32" || o.parallel.shards == 1, "--reduce-precision",
            "fp32 with --shards, which keeps every bit");
    require(o.run.gpu >= -1 && o.run.gpu <= 1023, "--gpu", "0..1023");
    require(o.run.gpu < 0 || o.run.device != "cpu", "--gpu", "left out with --device cpu");
}

bool Options::given(const std::string& name) const {
    return std::any_of(flags.begin(), flags.end(), [&](const Flag& f) { return f.name == name && f.given; });
}

void Options::with_flags_in_errors(const std::function<void()>& action) const {
    try {
        action();
    } catch (const engine::OutOfMemory& error) {
        throw engine::OutOfMemory(with_flags(error.what(), flags));
    } catch (const engine::Error& error) {
        throw engine::Error(error.fault(), with_flags(error.what(), flags));
    }
}

std::string flag_of(const std::string& field) {
    std::string name = field;
    std::replace(name.begin(), name.end(), '_', '-');
    return "--" + name;
}

}  // namespace vvtq::apps
