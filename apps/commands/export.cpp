// `vvtq export`: a trained model for other programs, in a packed file or as ONNX.
#include <filesystem>
#include <iostream>

#include "apps/commands/commands.h"
#include "apps/commands/model_setup.h"
#include "apps/training/packed_file.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace {

/// What the checkpoint says of itself; of a file of another program, what the flags said of it.
CheckpointInfo info_of(const Checkpoint& checkpoint, const nn::Model& model,
                       const QuantizerFlags& quantizer) {
    if (checkpoint.info()) return *checkpoint.info();
    CheckpointInfo info;
    info.command = "train";
    info.model = model.config();
    info.quantized = true;
    info.recipe = parse_options({"train", "--wbits", std::to_string(quantizer.wbits), "--abits",
                                 std::to_string(quantizer.abits)})
                      ->recipe();
    return info;
}

}  // namespace

int command_export(Options& options) {
    const ExportFlags& flags = options.exporting;
    if (flags.checkpoint.empty() || flags.output.empty()) {
        engine::input_error("name the checkpoint and the file to write: vvtq export CKPT OUT");
    }
    const bool packed = flags.output.ends_with(".safetensors");
    if (!packed && !flags.output.ends_with(".onnx")) {
        engine::input_error("'", data::printable(flags.output),
                            "': the ending says what to write; use .safetensors or .onnx");
    }
    const Checkpoint checkpoint(flags.checkpoint, "CKPT");
    std::vector<std::string> notes;
    const Compute compute{engine::Device::cpu, engine::DType::f32, engine::DType::f32};
    const auto model = load_model(options, checkpoint, 0, compute, notes);
    for (const std::string& note : notes) std::cout << note << std::endl;
    save_packed(flags.output, info_of(checkpoint, *model, options.quantizer), *model,
                flags.float16 ? PackedFloats::f16 : PackedFloats::f32);
    std::cout << "=> " << model->config().name << ", " << std::filesystem::file_size(flags.output)
              << " bytes: " << data::printable(flags.output) << std::endl;
    return 0;
}

}  // namespace vvtq::apps
