// step_gemms: the matrix products of one training step and nothing else, the ceiling that `bench step`
// compares with.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernels.h"
#include "nn/model.h"

namespace vvtq::apps {

/// Runs the products of a DeiT's forward and backward pass, with the step's shapes and kernels, on buffers of
/// its own; on a GPU those of linear layers alone, since attention multiplies within its own kernel.
/// `picture_gradient` says whether the patch embedding passes a gradient on (to a quantizer of the picture).
class StepGemms {
  public:
    StepGemms(const nn::ModelConfig& config, int64_t batch, bool picture_gradient, engine::DType dtype,
              engine::Device device);

    void run() const;
    /// Multiplications and additions of one run.
    double flops() const;

  private:
    /// y (rows, outputs) = x (rows, inputs) w^T, and its gradients.
    struct Linear {
        int64_t count;
        bool input_gradient;
        engine::Tensor x, w, y, dx, dw;
    };
    void add_linear(int64_t count, int64_t rows, int64_t inputs, int64_t outputs, bool input_gradient);

    engine::DType dtype_;
    engine::Device device_;
    std::vector<Linear> linears_;
    int64_t blocks_;
    engine::BatchedShape to_scores_, to_tokens_, to_tokens_transposed_;
    engine::Tensor tokens_[3];  // (B, N, C): two inputs and an output
    engine::Tensor scores_[2];  // (B, H, N, N): an input and an output
};

}  // namespace vvtq::apps
