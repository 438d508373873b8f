#include "nn/token_order.h"

namespace vvtq::nn {

autograd::TokenOrder order_of(const std::vector<int64_t>& index) {
    std::vector<int64_t> inverse(index.size());
    for (size_t i = 0; i < index.size(); ++i)
        inverse.at(static_cast<size_t>(index[i])) = static_cast<int64_t>(i);
    const engine::Shape shape = {static_cast<int64_t>(index.size())};
    const auto integers = [&](const std::vector<int64_t>& values) {
        return engine::Tensor::from({values.begin(), values.end()}, shape, engine::DType::i32);
    };
    return {integers(index), integers(inverse)};
}

autograd::TokenOrder on_device(const autograd::TokenOrder& order, engine::Device device) {
    if (!order.index.defined()) return order;
    return {order.index.to(device), order.inverse.to(device)};
}

}  // namespace vvtq::nn
