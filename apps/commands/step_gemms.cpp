#include "apps/commands/step_gemms.h"

#include "apps/commands/bench_support.h"

namespace vvtq::apps {
StepGemms::StepGemms(const nn::ModelConfig& config, int64_t batch, bool picture_gradient, engine::DType dtype,
                     engine::Device device)
    : dtype_(dtype), device_(device), blocks_(device == engine::Device::cpu ? config.depth : 0) {
    const int64_t width = config.embed_dim;
    const int64_t heads = config.num_heads;
    const int64_t side = config.img_size / config.patch_size;
    const int64_t patches = side * side;
    const int64_t tokens = patches + 1;
    const auto hidden = static_cast<int64_t>(static_cast<double>(width) * config.mlp_ratio);
    const int64_t rows = batch * tokens;
    add_linear(1, batch * patches, config.in_chans * config.patch_size * config.patch_size, width,
               picture_gradient);
    add_linear(4 * config.depth, rows, width, width, true);  // q, k, v and output projections
    add_linear(config.depth, rows, width, hidden, true);
    add_linear(config.depth, rows, hidden, width, true);
    add_linear(1, batch, width, config.num_classes, true);

    if (device == engine::Device::cuda) return;
    const int64_t head = width / heads;
    const engine::MatrixLayout in_tokens{tokens * width, head, width, false};
    const engine::MatrixLayout in_scores{heads * tokens * tokens, tokens * tokens, tokens, false};
    const auto flip = [](engine::MatrixLayout layout) {
        layout.transposed = true;
        return layout;
    };
    to_scores_ = {batch, heads, tokens, tokens, head, in_tokens, flip(in_tokens), in_scores};
    to_tokens_ = {batch, heads, tokens, head, tokens, in_scores, in_tokens, in_tokens};
    to_tokens_transposed_ = {batch, heads, tokens, head, tokens, flip(in_scores), in_tokens, in_tokens};
    for (engine::Tensor& t : tokens_) {
        t = noise({batch, tokens, width}, dtype, device);
    }
    for (engine::Tensor& t : scores_) {
        t = noise({batch, heads, tokens, tokens}, dtype, device);
    }
}

void StepGemms::add_linear(int64_t count, int64_t rows, int64_t inputs, int64_t outputs,
                           bool input_gradient) {
    const engine::DType master = engine::master_of(dtype_);
    const auto buffer = [&](int64_t r, int64_t c) { return noise({r, c}, dtype_, device_); };
    linears_.push_back({count, input_gradient, buffer(rows, inputs), buffer(outputs, inputs),
                        buffer(rows, outputs), buffer(rows, inputs),
                        engine::Tensor({outputs, inputs}, master, device_)});
}

void StepGemms::run() const {
    const engine::Kernels& kernel = engine::kernels(device_);
    for (const Linear& l : linears_) {
        for (int64_t i = 0; i < l.count; ++i) {
            kernel.linear(l.x, l.w, {}, {}, l.y);
            if (l.input_gradient) {
                kernel.linear_backward_input(l.y, l.w, {}, l.dx);
            }
            kernel.linear_backward_weight(l.y, l.x, {}, l.dw);
        }
    }
    for (int64_t i = 0; i < blocks_; ++i) {
        kernel.batched_matmul(to_scores_, tokens_[0], tokens_[1], scores_[1]);             // q k^T
        kernel.batched_matmul(to_tokens_, scores_[0], tokens_[0], tokens_[2]);             // p v
        kernel.batched_matmul(to_scores_, tokens_[0], tokens_[1], scores_[1]);             // dp = dy v^T
        kernel.batched_matmul(to_tokens_transposed_, scores_[0], tokens_[0], tokens_[2]);  // dv = p^T dy
        kernel.batched_matmul(to_tokens_, scores_[0], tokens_[0], tokens_[2]);             // dq = ds k
        kernel.batched_matmul(to_tokens_transposed_, scores_[0], tokens_[0], tokens_[2]);  // dk = ds^T q
    }
}

double StepGemms::flops() const {
    double total = 0;
    for (const Linear& l : linears_) {
        const int products = l.input_gradient ? 3 : 2;
        total += 2.0 * static_cast<double>(l.x.numel() * l.y.shape()[1] * l.count * products);
    }
    if (blocks_ == 0) return total;
    const engine::BatchedShape& s = to_scores_;
    return total + 6.0 * 2.0 * static_cast<double>(blocks_ * s.outer * s.inner * s.m * s.n * s.k);
}

}  // namespace vvtq::apps
