#include "apps/commands/model_setup.h"

#include <algorithm>
#include <set>

#include "apps/options/bits_file.h"
#include "apps/training/explain.h"
#include "apps/training/value_text.h"
#include "data/bytes.h"
#include "engine/device.h"
#include "quant/attach.h"

namespace vvtq::apps {
namespace {

/// Whether a flag asked for this size.
bool is_asked(const nn::Size& size) {
    return std::visit(
        [](const auto& value) {
            if constexpr (std::is_arithmetic_v<std::decay_t<decltype(value)>>) {
                return value != 0;
            } else {
                return !value.empty();
            }
        },
        size);
}

/// The size that a flag asks for, as the field of this model takes it. Throws Error(Fault::input) where
/// several numbers were given for a single one.
nn::Size as_field(const nn::Size& asked, const nn::Field& field, const nn::ModelConfig& config) {
    const nn::Size now = field.get(config);
    if (asked.index() == now.index()) return asked;
    const auto* numbers = std::get_if<std::vector<int64_t>>(&asked);
    VVTQ_CHECK(numbers != nullptr, field.name, " is of another kind in another family");
    if (numbers->size() != 1) {
        engine::input_error(flag_of(field.name), ": ", config.name, " has one stage; give one number");
    }
    if (std::holds_alternative<double>(now)) return static_cast<double>(numbers->front());
    return numbers->front();
}

/// Throws Error(Fault::input) where a flag asks for a size that models of this family do not have.
void check_asked(const ModelFlags& flags, const nn::ModelConfig& config) {
    const nn::Family& family = nn::family_of(config);
    std::string known;
    for (const nn::Field& field : family.fields) {
        if (!field.help.empty()) known += (known.empty() ? "" : ", ") + flag_of(field.name);
    }
    for (const auto& [name, size] : flags.sizes) {
        if (!is_asked(size) || family.askable(name) != nullptr) continue;
        engine::input_error(flag_of(name), ": ", config.name, " has no such size; its sizes are ", known);
    }
}

bool gives_bits(const Options& options) {
    return options.given("--wbits") || options.given("--abits") || options.given("--bits");
}

}  // namespace

Compute pick_compute(RunFlags& run) {
    using engine::Device;
    using engine::DType;
    if (run.gpu >= 0) engine::choose_gpu(static_cast<int>(run.gpu));
    if (run.device == "auto") {
        const bool cpu_only = run.precision == "fp64" || run.precision == "int8";
        run.device = run.gpu >= 0 || (!cpu_only && engine::is_available(Device::cuda)) ? "cuda" : "cpu";
    }
    const Device device = run.device == "cuda" ? Device::cuda : Device::cpu;
    engine::runtime(device);  // says why where it is not there
    const bool chosen = run.precision != "auto";
    if (!chosen) run.precision = device == Device::cuda ? "bf16" : "fp32";
    if (device == Device::cpu && (run.precision == "bf16" || run.precision == "tf32")) {
        if (!run.resume.empty()) {
            engine::input_error("--resume: ", run.resume, " was trained in ", run.precision,
                                ", which needs --device cuda; --finetune takes its weights alone");
        }
        engine::input_error("--precision: ", run.precision,
                            " needs --device cuda; on the CPU use fp32 or fp64");
    }
    if (device == Device::cuda && run.precision == "int8") {
        engine::input_error(
            "--precision: int8 is for --device cpu, whose integer products are the faster ones; on a GPU use "
            "bf16, tf32 or fp32");
    }
    if (device == Device::cuda && run.precision == "fp64") {
        engine::input_error("--precision: fp64 is for --device cpu; on a GPU use bf16, tf32 or fp32");
    }
    engine::allow_tf32(run.precision == "tf32");
    const DType parameters = run.precision == "fp64" ? DType::f64 : DType::f32;
    const auto integer = run.precision == "int8"            ? Integer::always
                         : !chosen && device == Device::cpu ? Integer::where_possible
                                                            : Integer::never;
    return {device, run.precision == "bf16" ? DType::bf16 : parameters, parameters, integer};
}

void settle_integer(RunFlags& run, nn::Model& model, Compute& compute) {
    if (compute.integer == Integer::always && model.weight_pass() == nullptr) {
        engine::input_error("--precision: int8 needs a quantized model; use fp32 for this one");
    }
    if (compute.integer != Integer::where_possible) return;
    compute.integer = model.weight_pass() != nullptr && quant::has_integer_products(model) ? Integer::always
                                                                                           : Integer::never;
    if (compute.integer == Integer::always) run.precision = "int8";
}

void refuse_integer(const RunFlags& run) {
    if (run.precision != "int8") return;
    engine::input_error(
        "--precision: int8 computes no gradients; train in fp32 and measure with --evaluate, or use predict");
}

nn::ModelConfig resolve_config(const Options& options, const Checkpoint* checkpoint, int64_t classes,
                               bool adapts) {
    const ModelFlags& flags = options.model;
    const auto saved = checkpoint != nullptr ? checkpoint->model_config() : std::nullopt;
    const std::string path = checkpoint != nullptr ? checkpoint->path() : "";
    if (!saved && flags.name.empty()) {
        engine::input_error("--model: name a model, such as deit_tiny_patch16_224");
    }
    nn::ModelConfig config = saved ? *saved : nn::model_config(flags.name);
    nn::ModelConfig wanted = config;  // what the flags ask for
    std::string contradictions;
    const auto contradict = [&](const std::string& flag, const std::string& here, const std::string& there) {
        contradictions += (contradictions.empty() ? "" : ", ") + flag + " " + here + " (there " + there + ")";
    };
    if (saved && !flags.name.empty()) {
        const nn::ModelConfig named = nn::model_config(flags.name);
        if (named.name != saved->name) {
            contradict("--model", named.name, saved->name);
            wanted = named;
        }
    }
    check_asked(flags, config);
    const auto apply = [&](const std::string& flag, const nn::Field& field, const nn::Size& size) {
        if (wanted.name == config.name) field.set(wanted, size);
        const bool adaptable =
            field.name == "img_size" || field.name == "window_size" || field.name == "num_classes";
        if (!saved || (adapts && adaptable)) {
            field.set(config, size);
        } else if (size != field.get(*saved)) {
            contradict(flag, nn::size_text(size), nn::size_text(field.get(*saved)));
        }
    };
    for (const nn::Field& field : nn::family_of(config).fields) {
        const auto asked = flags.sizes.find(field.name);
        if (!field.help.empty() && asked != flags.sizes.end() && is_asked(asked->second)) {
            apply(flag_of(field.name), field, as_field(asked->second, field, config));
        }
        if (field.name == "num_classes" && flags.num_classes != 0) {
            apply("--num_classes", field, flags.num_classes);
        }
    }
    if (!contradictions.empty()) {
        std::string tensors;
        try {
            tensors = checkpoint->misfits(wanted);
        } catch (const engine::Error&) {
            // no model of these sizes can be built, so there are no tensors to tell of
        }
        engine::input_error(path, " holds another model: ", contradictions, tensors.empty() ? "" : ": ",
                            tensors, "; leave these flags out or name another file");
    }
    if ((!saved || adapts) && flags.num_classes == 0 && classes != 0) config.num_classes = classes;
    if (classes != 0 && config.num_classes != classes) {
        const std::string whose = saved && !adapts ? path + " has a model of " : "--num_classes: ";
        engine::input_error(
            whose, config.num_classes, " classes but the data set has ", classes,
            saved && !adapts ? "; name a data set or a checkpoint that fits" : "; leave the flag out");
    }
    config.drop_path = flags.drop_path;
    return config;
}

std::unique_ptr<nn::Model> make_model(const nn::ModelConfig& config, const Compute& compute, uint64_t seed) {
    auto model = nn::make_model(config, compute.parameters, seed);
    model->to(compute.device);
    return model;
}

CheckpointInfo quantized_info(const nn::Model& model, const QuantizerFlags& quantizer) {
    CheckpointInfo info;
    info.command = "train";
    info.model = model.config();
    info.quantized = true;
    info.recipe = parse_options({"train", "--wbits", std::to_string(quantizer.wbits), "--abits",
                                 std::to_string(quantizer.abits)})
                      ->recipe();
    info.recipe["bits"] = quantizer.bits;
    return info;
}

QuantizerFlags quantizer_flags(const CheckpointInfo& info, const std::string& path) {
    const auto recipe = checked_recipe(info.recipe, info.command, path);
    QuantizerFlags flags;
    const auto read = [&](const char* name, auto& value) {
        const auto text = recipe.find(name);
        if (text == recipe.end() || !parse_text(text->second, value)) {
            engine::input_error(path, ": the checkpoint does not say --", name, "; name another file");
        }
    };
    read("wbits", flags.wbits);
    read("abits", flags.abits);
    read("fixed-scale", flags.fixed_scale);
    read("head-wise", flags.head_wise);
    read("bits", flags.bits);
    return flags;
}

void adopt_stored_bits(Options& options, const Checkpoint& checkpoint, nn::Model& model) {
    if (options.given("--wbits") && options.given("--abits")) return;
    const auto bits = stored_bits(checkpoint.file(), checkpoint.path(), model);
    if (!bits) {
        for (const auto& [path, slot] : quant::slots(model)) {
            if (slot->bits() == nn::Bits::always_8 || !checkpoint.file().contains(path + ".alpha")) continue;
            engine::input_error("--wbits, --abits: ", checkpoint.path(), " has steps (", path,
                                ".alpha), but does not say their bit widths; give both");
        }
        return;
    }
    if (!options.given("--wbits")) options.quantizer.wbits = bits->weights;
    if (!options.given("--abits")) options.quantizer.abits = bits->activations;
}

nn::ModelConfig loaded_config(const Options& options, const Checkpoint& checkpoint, int64_t classes) {
    if (!checkpoint.info() && classes == 0 && options.model.num_classes == 0 && !options.model.name.empty()) {
        classes = stored_classes(checkpoint.file(), nn::model_config(options.model.name)).value_or(0);
    }
    return resolve_config(options, &checkpoint, classes);
}

std::unique_ptr<nn::Model> load_model(Options& options, const Checkpoint& checkpoint, int64_t classes,
                                      const Compute& compute, std::vector<std::string>& notes, bool codes) {
    auto model = nn::make_model(loaded_config(options, checkpoint, classes), compute.parameters);
    model->to(compute.device);
    if (checkpoint.quantized(*model)) {
        if (checkpoint.info()) {
            if (gives_bits(options)) {
                engine::input_error("--wbits, --abits, --bits: ", checkpoint.path(),
                                    " says its bit widths; leave them out");
            }
            options.quantizer = quantizer_flags(*checkpoint.info(), checkpoint.path());
        } else {
            adopt_stored_bits(options, checkpoint, *model);
        }
        attach_quantizers(*model, options.quantizer);
    } else if (gives_bits(options)) {
        engine::input_error("--wbits, --abits, --bits: have no effect on ", checkpoint.path(),
                            ", which holds a full-precision model; leave them out");
    }
    const LoadReport report = checkpoint.load_parameters(*model, {.other_size = true, .codes = codes});
    require_finite(*model, checkpoint.path());
    if (!report.exact()) {
        for (std::string& line : report.table(checkpoint.path(), model->config().name)) {
            notes.push_back(std::move(line));
        }
    }
    model->train(false);
    return model;
}

std::string picture_crop(const Checkpoint& checkpoint) {
    const std::string crop = checkpoint.info() ? checkpoint.info()->evaluation_crop : "";
    return crop.empty() ? kCentralCrop : crop;
}

std::string other_classes_warning(const Checkpoint& checkpoint, const data::Dataset& dataset) {
    if (!checkpoint.info() || checkpoint.info()->class_names.empty()) return "";
    const std::vector<std::string>&theirs = checkpoint.info()->class_names, &ours = dataset.class_names();
    const auto [a, b] = std::mismatch(theirs.begin(), theirs.end(), ours.begin(), ours.end());
    if (a == theirs.end() && b == ours.end()) return "";
    const auto name = [](auto at, const auto& names) {
        return at == names.end() ? std::string("missing") : "'" + data::printable(*at) + "'";
    };
    return engine::concat("=> warning: ", checkpoint.path(), " was trained for other classes than those of ",
                          data::printable(dataset.name()), ": class ", a - theirs.begin(), " is ",
                          name(a, theirs), " there and ", name(b, ours), " here");
}

std::string bits_text(const QuantizerFlags& quantizer) {
    const auto width = [](int bits) { return bits == -1 ? 32 : bits; };
    return engine::concat("W", width(quantizer.wbits), "A", width(quantizer.abits),
                          quantizer.bits.empty() ? "" : " with widths by name");
}

void require_finite(const nn::Model& model, const std::string& path) {
    const std::string name = parameter_not_finite(model);
    if (name.empty()) return;
    engine::input_error("'", data::printable(path), "': tensor ", name,
                        " has values that are not finite; name another file");
}

int64_t parameter_count(const nn::Model& model) {
    int64_t count = 0;
    std::set<const void*> counted;  // a block of SReT has two names
    for (const nn::NamedParameter& p : model.parameters()) {
        if (counted.insert(p.parameter.value().memory_id()).second) count += p.parameter.shape().numel();
    }
    return count;
}

void attach_quantizers(nn::Model& model, const QuantizerFlags& quantizer) {
    quant::attach(model, {quantizer.wbits, quantizer.abits, quantizer.fixed_scale, quantizer.head_wise,
                          parse_bits(quantizer.bits)});
}

}  // namespace vvtq::apps
