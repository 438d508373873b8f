// quant_support: inputs and error checks that the tests of quant/ share.
#pragma once

#include <string>
#include <vector>

#include "engine/tensor.h"
#include "nn/model.h"
#include "tests/catch.h"
#include "tests/golden_inputs.h"

namespace vvtq::tests {

/// offset + scale (2 u - 1), named: the same numbers at every call.
inline engine::Tensor filled(const std::string& name, const engine::Shape& shape, double scale,
                             engine::DType dtype = engine::DType::f64, double offset = 0.0) {
    return engine::Tensor::from(fill(name, shape.numel(), scale, offset), shape, dtype);
}

/// The message of the Error that `act` throws, which must be of the given fault and one line.
template <typename Act>
std::string message_of(engine::Fault fault, Act act) {
    try {
        act();
    } catch (const engine::Error& error) {
        CHECK(error.fault() == fault);
        const std::string message = error.what();
        CHECK(message.find('\n') == std::string::npos);
        return message;
    }
    FAIL("no error was thrown");
    return {};
}

inline bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

/// A DeiT of 8 x 8 pictures with 3 heads of width 4 and 2 blocks.
inline std::unique_ptr<nn::Model> small_model(engine::DType dtype = engine::DType::f64) {
    nn::ModelConfig config = nn::model_config("deit_nano_patch4_28_quant");
    config.img_size = 8;
    config.in_chans = 3;
    config.embed_dim = 12;
    config.depth = 2;
    config.num_heads = 3;
    config.num_classes = 5;
    return nn::make_model(config, dtype, 7);
}

inline engine::Tensor small_pictures(engine::DType dtype = engine::DType::f64) {
    return filled("images", {2, 3, 8, 8}, 1.5, dtype);
}

}  // namespace vvtq::tests
