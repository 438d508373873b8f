#include <cstdio>

#include "quant/lsq.h"

int main() {
    vvtq::quant::Lsq quantizer({.bits = 2});
    const vvtq::nn::Tensor x = vvtq::nn::Tensor::full({4}, 0.5, vvtq::engine::DType::f32);
    std::printf("step %.3f\n", (quantizer(vvtq::nn::Variable(x)), quantizer.step()));
}
