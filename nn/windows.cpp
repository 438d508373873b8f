#include "nn/windows.h"

namespace vvtq::nn {

namespace {

constexpr double kMasked = -100.0;  // added to a score

Tensor integers(const std::vector<int64_t>& values, const engine::Shape& shape) {
    return Tensor::from({values.begin(), values.end()}, shape, engine::DType::i32);
}

/// Places of one window's tokens in the rolled square.
struct Place {
    int64_t row, column;
};
std::vector<Place> window_places(int64_t side, int64_t size) {
    std::vector<Place> places;
    for (int64_t window = 0; window < (side / size) * (side / size); ++window) {
        const int64_t top = window / (side / size) * size, left = window % (side / size) * size;
        for (int64_t i = 0; i < size * size; ++i) places.push_back({top + i / size, left + i % size});
    }
    return places;
}

}  // namespace

TokenGroups windows_of(int64_t side, int64_t size, int64_t shift, engine::DType dtype) {
    VVTQ_CHECK(size > 0 && side % size == 0 && shift >= 0 && shift < size, "windows of ", size, " in ", side,
               ", shifted by ", shift);
    const std::vector<Place> places = window_places(side, size);
    std::vector<int64_t> index;
    for (const Place& at : places) {
        index.push_back((at.row + shift) % side * side + (at.column + shift) % side);
    }
    TokenGroups groups;
    groups.count = (side / size) * (side / size);
    if (size < side) groups.order = order_of(index);  // one window is in order as it is

    const int64_t tokens = size * size;
    std::vector<int64_t> entries;
    for (int64_t i = 0; i < tokens; ++i) {
        for (int64_t j = 0; j < tokens; ++j) {
            const int64_t down = i / size - j / size, across = i % size - j % size;
            entries.push_back((down + size - 1) * (2 * size - 1) + across + size - 1);
        }
    }
    groups.bias_index = integers(entries, {tokens, tokens});
    if (shift == 0) return groups;

    const auto part = [=](int64_t x) { return x < side - size ? 0 : (x < side - shift ? 1 : 2); };
    std::vector<double> mask;
    for (int64_t window = 0; window < groups.count; ++window) {
        for (int64_t i = 0; i < tokens * tokens; ++i) {
            const Place a = places[static_cast<size_t>(window * tokens + i / tokens)];
            const Place b = places[static_cast<size_t>(window * tokens + i % tokens)];
            const bool together = part(a.row) == part(b.row) && part(a.column) == part(b.column);
            mask.push_back(together ? 0.0 : kMasked);
        }
    }
    groups.mask = Tensor::from(mask, {groups.count, tokens, tokens}, dtype);
    return groups;
}

autograd::TokenOrder merge_order(int64_t side) {
    VVTQ_CHECK(side > 0 && side % 2 == 0, side, " tokens a side cannot be merged in pairs");
    std::vector<int64_t> index;
    for (int64_t row = 0; row < side; row += 2) {
        for (int64_t column = 0; column < side; column += 2) {
            for (const Place step : {Place{0, 0}, Place{1, 0}, Place{0, 1}, Place{1, 1}}) {
                index.push_back((row + step.row) * side + column + step.column);
            }
        }
    }
    return order_of(index);
}

TokenGroups on_device(const TokenGroups& groups, engine::Device device) {
    TokenGroups moved = groups;
    moved.order = on_device(groups.order, device);
    moved.bias_index = groups.bias_index.to(device);
    if (groups.mask.defined()) moved.mask = groups.mask.to(device);
    return moved;
}

}  // namespace vvtq::nn
