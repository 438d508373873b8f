// The class of a picture by a checkpoint of `vvtq pretrain` or `vvtq train`, and its probability.
//   classify CHECKPOINT.safetensors PICTURE
#include <algorithm>
#include <cstdio>
#include <memory>

#include "apps/training/checkpoint.h"
#include "autograd/ops.h"
#include "data/bytes.h"
#include "data/crops.h"
#include "data/normalization.h"
#include "data/resample.h"
#include "quant/attach.h"

using namespace vvtq;
using nn::Tensor;

/// The model of a checkpoint, with its quantizers, for evaluation in f32 on the CPU.
std::unique_ptr<nn::Model> open_model(const std::string& path) {
    const apps::Checkpoint checkpoint(path, "CHECKPOINT");
    const auto& info = checkpoint.info();
    if (!info) engine::input_error(path, ": not a checkpoint of vvtq");
    std::unique_ptr<nn::Model> model = nn::make_model(info->model, engine::DType::f32, 0);
    if (info->quantized) {
        quant::attach(*model, {.weights = std::stoi(info->recipe.at("wbits")),
                               .activations = std::stoi(info->recipe.at("abits"))});
    }
    checkpoint.load_parameters(*model);
    model->train(false);
    return model;
}

/// The picture as the model sees it in evaluation, (1, 3, size, size): resized, its center, normalized.
/// Pictures that are small already are not cut.
Tensor load_picture(const std::string& path, int size) {
    const data::Image image = data::decode_image(data::read_file(path, ""), path);
    const data::EvaluationCrop crop =
        image.height <= size && image.width <= size
            ? data::whole_picture(size)
            : data::central_crop(image.height, image.width, size, data::evaluation_side(size));
    data::Bytes rgb;  // (size, size, 3)
    data::Resampler().resize(image, {0, 0, image.height, image.width}, crop.height, crop.width, crop.window,
                             data::Filter::bilinear, rgb);
    const data::Normalization normalization;
    const auto plane = static_cast<size_t>(size) * static_cast<size_t>(size);
    std::vector<double> pixels(3 * plane);
    for (size_t i = 0; i < pixels.size(); ++i) {
        const size_t c = i / plane;
        pixels[i] = (rgb[3 * (i % plane) + c] / 255.0 - normalization.mean[c]) / normalization.std[c];
    }
    return Tensor::from(pixels, {1, 3, size, size}, engine::DType::f32);
}

int main(int argc, char** argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: classify CHECKPOINT.safetensors PICTURE\n");
        return 2;
    }
    try {
        const std::unique_ptr<nn::Model> model = open_model(argv[1]);
        const autograd::NoGrad off_tape;
        const int size = static_cast<int>(model->config().img_size);
        const nn::Variable logits = model->forward(load_picture(argv[2], size));
        const std::vector<double> p = autograd::softmax(logits).value().to_vector();
        const auto best = std::max_element(p.begin(), p.end());
        std::printf("class %td, probability %.2f\n", best - p.begin(), *best);
        return 0;
    } catch (const engine::Error& error) {
        std::fprintf(stderr, "classify: %s\n", error.what());
        return error.fault() == engine::Fault::input ? 2 : 1;
    }
}
