#include "nn/losses.h"

#include "autograd/ops.h"

namespace vvtq::nn {

Variable soft_cross_entropy(const Variable& logits, const Tensor& targets) {
    const autograd::Scope scope("loss");
    return autograd::soft_cross_entropy(logits, targets);
}

Variable cross_entropy(const Variable& logits, const Tensor& labels, double smoothing) {
    const engine::Shape& shape = logits.shape();  // (B, K)
    VVTQ_CHECK(shape.rank() == 2 && labels.shape() == engine::Shape({shape[0]}), "logits ", shape.str(),
               ", labels ", labels.shape().str());
    VVTQ_CHECK(smoothing >= 0 && smoothing < 1, "smoothing ", smoothing);
    const Tensor targets = logits.value().like();
    engine::kernels(targets.device()).smooth_targets(labels, smoothing, targets);
    return nn::soft_cross_entropy(logits, targets);
}

Tensor label_tensor(const std::vector<int>& labels, int64_t classes, engine::Device device) {
    for (const int label : labels)
        VVTQ_CHECK(label >= 0 && label < classes, "label ", label, " of ", classes, " classes");
    const std::vector<double> values(labels.begin(), labels.end());
    return Tensor::from(values, {static_cast<int64_t>(labels.size())}, engine::DType::i32, device);
}

Tensor count_top(const Tensor& logits, const Tensor& labels) {
    const engine::Shape& shape = logits.shape();  // (B, K)
    VVTQ_CHECK(shape.rank() == 2 && labels.shape() == engine::Shape({shape[0]}), "logits ", shape.str(),
               ", labels ", labels.shape().str());
    const Tensor counts({2}, engine::DType::i64, logits.device());
    engine::kernels(logits.device()).count_top(logits, labels, counts);
    return counts;
}

}  // namespace vvtq::nn
