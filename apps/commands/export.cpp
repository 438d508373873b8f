// `vvtq export`: a trained model for other programs, in a packed file or as ONNX.
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/commands/commands.h"
#include "apps/commands/model_setup.h"
#include "apps/commands/onnx_file.h"
#include "apps/commands/training_setup.h"
#include "apps/training/packed_file.h"
#include "data/bytes.h"
#include "data/normalization.h"
#include "engine/check.h"
#include "quant/export/onnx_export.h"

namespace vvtq::apps {
namespace {

using nlohmann::json;

quant::OnnxOptions onnx_options(const ExportFlags& flags) {
    const data::Normalization normalization;
    return {quant::parse_onnx_style(flags.style),
            flags.opset,
            flags.input == "pixels",
            {normalization.mean.begin(), normalization.mean.end()},
            {normalization.std.begin(), normalization.std.end()}};
}

/// Names of the classes; their numbers where the checkpoint has no names.
json class_names(const Checkpoint& checkpoint, int64_t classes) {
    json names = json::array();
    if (checkpoint.info()) names = checkpoint.info()->class_names;
    if (names.size() == static_cast<size_t>(classes)) return names;
    names = json::array();
    for (int64_t i = 0; i < classes; ++i) names.push_back(std::to_string(i));
    return names;
}

/// What a program needs to know to prepare pictures and to name the results.
std::map<std::string, std::string> onnx_metadata(const Options& options, const Checkpoint& checkpoint,
                                                 const nn::Model& model, const quant::OnnxOptions& onnx) {
    const std::string crop = picture_crop(checkpoint);
    const auto text = [](const json& value) {
        return value.dump(-1, ' ', false, json::error_handler_t::replace);
    };
    const auto width = [](int bits) { return std::to_string(bits < 1 || bits > 8 ? 32 : bits); };
    return {{"model", model.config().name},
            {"image_size", std::to_string(model.config().img_size)},
            {"mean", text(onnx.mean)},
            {"std", text(onnx.std)},
            {"crop_pct", crop == "whole" ? "1" : crop},
            {"crop_mode", crop == "whole" ? "squash" : "center"},
            {"interpolation", "bilinear"},
            {"classes", text(class_names(checkpoint, model.config().num_classes))},
            {"wbits", width(options.quantizer.wbits)},
            {"abits", width(options.quantizer.abits)},
            {"bits", options.quantizer.bits}};
}

}  // namespace

int command_export(Options& options) {
    const ExportFlags& flags = options.exporting;
    if (flags.checkpoint.empty() || flags.output.empty()) {
        engine::input_error("name the checkpoint and the file to write: vvtq export CKPT OUT");
    }
    std::error_code missing;
    if (std::filesystem::equivalent(flags.checkpoint, flags.output, missing)) {
        engine::input_error(
            "'", data::printable(flags.output),
            "' is the checkpoint itself, whose optimizer state would be lost; name another file");
    }
    const bool packed = flags.output.ends_with(".safetensors");
    if (!packed && !flags.output.ends_with(".onnx")) {
        engine::input_error("'", data::printable(flags.output),
                            "': the ending says what to write; use .safetensors or .onnx");
    }
    if (!packed) require_onnx(flags.output);
    const Checkpoint checkpoint(flags.checkpoint, "CKPT");
    std::vector<std::string> notes;
    const Compute compute{engine::Device::cpu, engine::DType::f32, engine::DType::f32};
    const auto model = load_model(options, checkpoint, 0, compute, notes);
    for (const std::string& note : notes) std::cout << note << std::endl;
    if (packed) {
        save_packed(flags.output, checkpoint.info().value_or(quantized_info(*model, options.quantizer)),
                    *model, flags.float16 ? PackedFloats::f16 : PackedFloats::f32);
    } else {
        const quant::OnnxOptions onnx = onnx_options(flags);
        write_onnx(flags.output, quant::export_onnx(*model, onnx),
                   onnx_metadata(options, checkpoint, *model, onnx));
    }
    std::cout << "=> " << model->config().name << ", " << std::filesystem::file_size(flags.output)
              << " bytes: " << data::printable(flags.output) << std::endl;
    return 0;
}

}  // namespace vvtq::apps
