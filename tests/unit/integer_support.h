// Small quantized models for the tests of integer inference.
#pragma once

#include <random>

#include "nn/model.h"
#include "quant/attach.h"
#include "quant/calibrate.h"

namespace vvtq::tests {

using engine::DType;
using nn::Tensor;

inline constexpr const char* kModels[] = {"deit_tiny_patch16_224_quant", "swin_tiny_patch4_window7_224_quant",
                                          "SReT_T_quant"};

inline nn::ModelConfig small(const std::string& name) {
    nn::ModelConfig config = nn::model_config(name);
    config.img_size = 32;
    config.num_classes = 10;
    if (name.starts_with("deit")) {
        config.patch_size = 8;
        config.embed_dim = 48;
        config.num_heads = 3;
        config.depth = 2;
    } else if (name.starts_with("swin")) {
        config.patch_size = 2;
        config.embed_dim = 24;
        config.depths = {2, 2};
        config.heads = {2, 4};
        config.window_size = 4;
    } else {
        config.patch_size = 2;
        config.embed_dim = 30;
        config.depths = {2, 2};
        config.heads = {2, 4};
        config.mlp_ratio = 3.7;
    }
    return config;
}

inline Tensor noise(const engine::Shape& shape, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    std::vector<double> values(static_cast<size_t>(shape.numel()));
    for (double& value : values) value = normal(random);
    return Tensor::from(values, shape, DType::f32);
}

inline std::unique_ptr<nn::Model> quantized(const std::string& name, const quant::BitWidths& bits) {
    auto model = nn::make_model(small(name), DType::f32, 3);
    quant::attach(*model, bits);
    quant::calibrate_weights(*model);
    quant::calibrate_activations(*model, noise({4, 3, 32, 32}, 5));
    model->train(false);
    return model;
}

inline std::vector<double> logits(nn::Model& model, const Tensor& pictures) {
    const autograd::NoGrad off_tape;
    return model.forward(pictures).value().to_vector();
}

}  // namespace vvtq::tests
