#include "nn/losses.h"

#include "autograd/ops.h"

namespace vvtq::nn {

Variable soft_cross_entropy(const Variable& logits, const Tensor& targets) {
    const autograd::Scope scope("loss");
    return autograd::soft_cross_entropy(logits, targets);
}

Variable cross_entropy(const Variable& logits, const std::vector<int>& labels, double smoothing) {
    const engine::Shape& shape = logits.shape();  // (B, K)
    VVTQ_CHECK(shape.rank() == 2 && shape[0] == static_cast<int64_t>(labels.size()), "logits ", shape.str(),
               ", ", labels.size(), " labels");
    VVTQ_CHECK(smoothing >= 0 && smoothing < 1, "smoothing ", smoothing);
    const auto classes = static_cast<size_t>(shape[1]);
    std::vector<double> targets(labels.size() * classes, smoothing / static_cast<double>(classes));
    for (size_t b = 0; b < labels.size(); ++b) {
        VVTQ_CHECK(labels[b] >= 0 && static_cast<size_t>(labels[b]) < classes, "label ", labels[b], " of ",
                   classes, " classes");
        targets[b * classes + static_cast<size_t>(labels[b])] += 1.0 - smoothing;
    }
    return nn::soft_cross_entropy(
        logits, Tensor::from(targets, shape, logits.value().dtype(), logits.value().device()));
}

int64_t count_top_k(const Tensor& logits, const std::vector<int>& labels, int64_t k) {
    const engine::Shape& shape = logits.shape();  // (B, K)
    VVTQ_CHECK(shape.rank() == 2 && shape[0] == static_cast<int64_t>(labels.size()), "logits ", shape.str(),
               ", ", labels.size(), " labels");
    const std::vector<double> values = logits.to_vector();
    const auto classes = static_cast<size_t>(shape[1]);
    int64_t hits = 0;
    for (size_t b = 0; b < labels.size(); ++b) {
        VVTQ_CHECK(labels[b] >= 0 && static_cast<size_t>(labels[b]) < classes, "label ", labels[b], " of ",
                   classes, " classes");
        const double* row = values.data() + b * classes;
        const auto label = static_cast<size_t>(labels[b]);
        int64_t above = 0;  // classes that rank before the label; with NaN among them the label never counts
        for (size_t c = 0; c < classes; ++c) {
            if (c != label && (c < label ? !(row[c] < row[label]) : !(row[c] <= row[label]))) ++above;
        }
        if (above < k) ++hits;
    }
    return hits;
}

}  // namespace vvtq::nn
