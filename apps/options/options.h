// options: the flags of every command, by their published names, and what they start from.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "apps/launch/launch.h"
#include "nn/family.h"

namespace vvtq::apps {

/// Sizes that are 0 or empty were not asked for: they come from a checkpoint, else from the published model.
struct ModelFlags {
    std::string name;
    std::map<std::string, nn::Size> sizes;  // by the names of the families' fields
    int64_t num_classes = 0;
    double drop_path = 0.1;
};

struct DataFlags {
    std::string dir;
    std::string dataset = "folder";
    int workers = 2;
    int64_t batch_size = 256;
    std::vector<double> scale{0.08, 1.0};
    std::vector<double> ratio{3.0 / 4.0, 4.0 / 3.0};
    double hflip = 0.5;
    bool no_aug = false;
    std::string on_bad_image = "error";
    std::string decode = "exact";
    std::string train_interpolation = "bilinear";
    std::string auto_augment = "none";
    double color_jitter = 0.0;
    double erase_probability = 0.0;
    std::string erase_mode = "pixel";
    int erase_count = 1;
    double mixup = 0.0;
    double cutmix = 0.0;
    std::vector<double> cutmix_minmax;
    double mixup_probability = 1.0;
    double mixup_switch_probability = 0.5;
    std::string mixup_mode = "batch";
    bool repeated_augmentation = false;
    double crop_pct = 0.0;  // 0: 224/256 of the shorter side, all of it for fashion-mnist and cifar10
};

struct LabelFlags {
    std::string path;
    std::string type = "marginal_smoothing_k5";
    int num_crops = 4;
    double smoothing = 0.1;
    int crops_per_image = 16;
    double min_crop_area = 0.08;
    double max_crop_area = 0.936;
    std::string teacher;
    std::string form = "packed";
    std::string reference;
    std::string pack, unpack;
};

struct QuantizerFlags {
    int wbits = -1;
    int abits = -1;
    bool fixed_scale = false;
    bool reg = false;
    bool head_wise = false;
    /// --bits: on the command line its file; then, and in checkpoints, the text of bits_file.h.
    std::string bits = "";
    bool track_oscillation = false;
    double freeze_threshold = 0.0;      // 0: no weight is frozen
    double freeze_threshold_end = 0.0;  // 0: the threshold stays
};

struct OptimizerFlags {
    int epochs = 150;
    int start_epoch = 0;
    int warmup_epochs = 5;
    double lr = 2e-3;
    double min_lr = 1e-5;
    double warmup_lr = 1e-6;
    double weight_decay = 1e-4;
    double eps = 1e-8;
    std::vector<double> betas{0.9, 0.999};
    double clip_grad = 0.0;
};

struct RunFlags {
    std::string device = "auto";
    std::string precision = "auto";
    int64_t gpu = -1;       // -1: the first
    bool no_graph = false;  // steps are enqueued kernel by kernel
    int threads = 0;
    uint64_t seed = 0;
    bool dry_run = false;
    int64_t max_steps = 0;
    int64_t save_every_steps = 0;
    int keep = 1;
    std::string on_nan = "stop";
    int print_freq = 10;
    std::string save_dir = "./checkpoints";
    std::string log;  // empty: <save_dir>/<command>.log
    std::string tensorboard;
    std::string finetune;
    bool keep_steps = false, allow_partial = false;
    std::string resume;
    bool evaluate = false;
};

struct BenchFlags {
    int steps = 20;
    std::string dir;
    int64_t img_size = 224;
    int crops = 4;
    double seconds = 15;
    std::vector<int64_t> batches{1, 32}, threads{1, 0};  // each with each
    std::vector<int64_t> workers{2};
    int turns = 5;
    bool no_memory = false;
};

/// How a step is shared out over processes, beside LaunchFlags.
struct ParallelFlags {
    int shards = 1;
    int buckets = 1;
    std::string reduce_precision = "fp32";
};

struct PackFlags {
    std::string dir, out;
    int resize = 0;  // 0: pictures stay as they are
    int quality = 95;
    int64_t shard_size = 1000;  // MB
};

struct ConvertFlags {
    std::string input, output;
    bool drop_optimizer = false;
};

struct ExportFlags {
    std::string checkpoint, output;
    bool float16 = false;
    std::string input = "float";
    std::string style = "uint8";
    int opset = 0;  // 0: the lowest that can say it
};

struct PredictFlags {
    std::string checkpoint;
    std::vector<std::string> images;  // files and folders
    int topk = 1;
    bool json = false, logits = false, center_crop = false, whole = false;
    std::string class_names;
};

struct InspectFlags {
    std::string checkpoint, compare, json, html;
    std::vector<std::string> metrics;
    std::string sort = "severity";
    int64_t pictures = 256;
    bool sensitivity = false, by_kind = false;
    std::string suggest_bits, bits_out, budget_of = "operations";
};

/// One flag of the parsed command.
struct Flag {
    std::string name;     // "--lr"
    bool given = false;   // on the command line or in the --config file
    std::string place;    // "--config: FILE, line 3: " where the file gave it, else empty
    bool recipe = false;  // changes what is trained, so a resumed run must agree with its checkpoint
    std::function<std::string()> get;
    std::function<bool(const std::string&)> set;  // false where the text is not such a value
};

/// What a command line says. Flags that a command does not have keep their defaults here.
struct Options {
    Options() = default;
    Options(const Options&) = delete;  // flags point into their Options
    Options& operator=(const Options&) = delete;

    std::string command;  // "train", "bench step", ...; empty where only `help` is to be printed
    std::string help;
    ModelFlags model;
    DataFlags data;
    LabelFlags labels;
    QuantizerFlags quantizer;
    OptimizerFlags optimizer;
    RunFlags run;
    LaunchFlags launch;
    ParallelFlags parallel;
    BenchFlags bench;
    PackFlags pack;
    ConvertFlags convert;
    ExportFlags exporting;
    PredictFlags predict;
    InspectFlags inspect;
    std::vector<Flag> flags;

    bool given(const std::string& name) const;
    /// Name (without dashes) and value of every flag that changes what is trained.
    std::map<std::string, std::string> recipe() const;
    /// Takes the values of a checkpoint, as checked_recipe() gives them, for the flags `names` (all flags of
    /// the recipe where it is empty). Throws Error(Fault::input) naming the flags that were given with
    /// another value.
    void adopt_recipe(const std::map<std::string, std::string>& saved, const std::string& checkpoint,
                      const std::vector<std::string>& names = {});
    /// Runs `action`. Where it throws engine::Error, the names of fields in the message, which stand in
    /// backquotes (`embed_dim`), become the flags of this command (--embed-dim).
    void with_flags_in_errors(const std::function<void()>& action) const;
};

/// "--embed-dim" of "embed_dim".
std::string flag_of(const std::string& field);

/// The recipe that a checkpoint of `vvtq COMMAND` holds, complete: names of flags that its version did not
/// have yet come with the value they had then. Throws Error(Fault::input) naming `checkpoint` where a name is
/// unknown or missing.
std::map<std::string, std::string> checked_recipe(const std::map<std::string, std::string>& saved,
                                                  const std::string& command, const std::string& checkpoint);

/// Throws Error(Fault::input) naming the flag whose value is out of its range.
void check_ranges(const Options& options);

/// Whether the bit widths ask for quantizers that follow them.
bool has_low_bits(const QuantizerFlags& quantizer);

/// Throws Error(Fault::input) naming a flag that was given and changes nothing beside the other flags.
void check_effects(const Options& options);

/// Parses a command line (without the program's name). Throws Error(Fault::input), one line that names the
/// flag.
std::unique_ptr<Options> parse_options(const std::vector<std::string>& arguments);

}  // namespace vvtq::apps
