#include "apps/commands/model_setup.h"

#include "apps/options/flag_text.h"
#include "engine/device.h"
#include "quant/attach.h"

namespace vvtq::apps {
namespace {

std::string known_models() {
    std::string names;
    for (const std::string& name : nn::model_names()) {
        names += (names.empty() ? "" : ", ") + name;
    }
    return names;
}

/// One size of the model with its flag.
struct SizeFlag {
    const char* flag;
    int64_t ModelFlags::*asked;
    int64_t nn::ModelConfig::*size;
};

const SizeFlag kSizes[] = {
    {"--img-size", &ModelFlags::img_size, &nn::ModelConfig::img_size},
    {"--patch-size", &ModelFlags::patch_size, &nn::ModelConfig::patch_size},
    {"--embed-dim", &ModelFlags::embed_dim, &nn::ModelConfig::embed_dim},
    {"--depth", &ModelFlags::depth, &nn::ModelConfig::depth},
    {"--window-size", &ModelFlags::window_size, &nn::ModelConfig::window_size},
    {"--num_classes", &ModelFlags::num_classes, &nn::ModelConfig::num_classes},
};

/// Sizes of each stage, with their flag.
struct StageFlag {
    const char* flag;
    std::vector<int64_t> ModelFlags::*asked;
    std::vector<int64_t> nn::ModelConfig::*sizes;
};

const StageFlag kStageSizes[] = {
    {"--depths", &ModelFlags::depths, &nn::ModelConfig::depths},
    {"--num-heads", &ModelFlags::num_heads, &nn::ModelConfig::heads},
};

/// Throws Error(Fault::input) where a flag of one family of models was given for another.
void check_family(const ModelFlags& flags, const nn::ModelConfig& config) {
    const bool stages = config.family != "deit";
    if (stages && flags.depth != 0) {
        engine::input_error("--depth: ", config.name, " has stages; give --depths, one number for each");
    }
    if (!stages && !flags.depths.empty()) {
        engine::input_error("--depths: ", config.name, " has one stage; give --depth");
    }
    if (!stages && flags.num_heads.size() > 1) {
        engine::input_error("--num-heads: ", config.name, " has one stage; give one number");
    }
    if (config.family != "swin" && flags.window_size != 0) {
        engine::input_error("--window-size: ", config.name, " has no windows; leave the flag out");
    }
}

}  // namespace

Compute pick_compute(RunFlags& run) {
    using engine::Device;
    using engine::DType;
    if (run.gpu >= 0) engine::choose_gpu(static_cast<int>(run.gpu));
    if (run.device == "auto") {
        const bool cpu_only = run.precision == "fp64";
        run.device = run.gpu >= 0 || (!cpu_only && engine::is_available(Device::cuda)) ? "cuda" : "cpu";
    }
    const Device device = run.device == "cuda" ? Device::cuda : Device::cpu;
    engine::runtime(device);  // says why where it is not there
    if (run.precision == "auto") run.precision = device == Device::cuda ? "bf16" : "fp32";
    if (device == Device::cpu && (run.precision == "bf16" || run.precision == "tf32")) {
        if (!run.resume.empty()) {
            engine::input_error("--resume: ", run.resume, " was trained in ", run.precision,
                                ", which needs --device cuda; --finetune takes its weights alone");
        }
        engine::input_error("--precision: ", run.precision,
                            " needs --device cuda; on the CPU use fp32 or fp64");
    }
    if (device == Device::cuda && run.precision == "fp64") {
        engine::input_error("--precision: fp64 is for --device cpu; on a GPU use bf16, tf32 or fp32");
    }
    engine::allow_tf32(run.precision == "tf32");
    const DType parameters = run.precision == "fp64" ? DType::f64 : DType::f32;
    return {device, run.precision == "bf16" ? DType::bf16 : parameters, parameters};
}

nn::ModelConfig resolve_config(const Options& options, const Checkpoint* checkpoint, int64_t classes) {
    const ModelFlags& flags = options.model;
    const auto saved = checkpoint != nullptr ? checkpoint->model_config() : std::nullopt;
    const std::string path = checkpoint != nullptr ? checkpoint->path() : "";
    if (!saved && flags.name.empty()) {
        engine::input_error("--model: name a model; known are ", known_models());
    }
    nn::ModelConfig config = saved ? *saved : nn::model_config(flags.name);
    nn::ModelConfig wanted = saved && !flags.name.empty() ? nn::model_config(flags.name) : config;
    std::string contradictions;
    const auto contradict = [&](const std::string& flag, const std::string& here, const std::string& there) {
        contradictions += (contradictions.empty() ? "" : ", ") + flag + " " + here + " (there " + there + ")";
    };
    if (saved && !flags.name.empty()) {
        const std::string name = nn::model_config(flags.name).name;
        if (name != saved->name) {
            contradict("--model", name, saved->name);
        }
    }
    check_family(flags, config);
    const auto apply = [&](const char* flag, const auto& asked, const auto size) {
        wanted.*size = asked;
        if (!saved) {
            config.*size = asked;
        } else if (asked != (*saved).*size) {
            contradict(flag, flag_text(asked), flag_text((*saved).*size));
        }
    };
    for (const StageFlag& stage : kStageSizes) {
        const auto& asked = flags.*stage.asked;
        if (config.family != "deit" && !asked.empty()) apply(stage.flag, asked, stage.sizes);
    }
    if (config.family == "deit" && !flags.num_heads.empty()) {
        apply("--num-heads", flags.num_heads.front(), &nn::ModelConfig::num_heads);
    }
    for (const SizeFlag& size : kSizes) {
        const int64_t asked = flags.*size.asked;
        if (asked != 0) apply(size.flag, asked, size.size);
    }
    if (!contradictions.empty()) {
        const std::string tensors = checkpoint->misfits(wanted);
        engine::input_error(path, " holds another model: ", contradictions, tensors.empty() ? "" : ": ",
                            tensors, "; leave these flags out or name another file");
    }
    if (!saved && flags.num_classes == 0 && classes != 0) {
        config.num_classes = classes;
    }
    if (classes != 0 && config.num_classes != classes) {
        const std::string whose = saved ? path + " has a model of " : "--num_classes: ";
        engine::input_error(whose, config.num_classes, " classes but the data set has ", classes,
                            saved ? "; name a data set or a checkpoint that fits" : "; leave the flag out");
    }
    config.drop_path = flags.drop_path;
    return config;
}

std::unique_ptr<nn::Model> make_model(const Options& options, const nn::ModelConfig& config,
                                      const Checkpoint* checkpoint, const Compute& compute) {
    try {
        auto model = nn::make_model(config, compute.parameters, options.run.seed);
        model->to(compute.device);
        return model;
    } catch (const engine::Error& error) {
        if (checkpoint == nullptr || !checkpoint->info() || error.fault() != engine::Fault::input) {
            throw;
        }
        engine::input_error(checkpoint->path(), " records a model that cannot be built: ", error.what());
    }
}

bool has_low_bits(const QuantizerFlags& quantizer) {
    const auto low = [](int bits) { return bits != -1 && bits != 32; };
    return low(quantizer.wbits) || low(quantizer.abits);
}

void attach_quantizers(nn::Model& model, const QuantizerFlags& quantizer) {
    quant::attach(model, {quantizer.wbits, quantizer.abits, quantizer.fixed_scale, quantizer.head_wise});
}

}  // namespace vvtq::apps
