#include "quant/export/onnx_graph.h"

#include <algorithm>
#include <cstring>
#include <string_view>

namespace vvtq::quant {

namespace {

constexpr int kGeluOpset = 20;  // the operator `Gelu`

template <typename T>
std::vector<uint8_t> bytes_of(const std::vector<T>& values) {
    std::vector<uint8_t> bytes(values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
}

}  // namespace

int bits_of(OnnxType type) {
    switch (type) {
        case OnnxType::f32:
            return 32;
        case OnnxType::i64:
            return 64;
        case OnnxType::u8:
        case OnnxType::i8:
            return 8;
        case OnnxType::u4:
        case OnnxType::i4:
            return 4;
        case OnnxType::u2:
        case OnnxType::i2:
            return 2;
    }
    return 0;
}

OnnxGraph::OnnxGraph() : lowest_opset_(kGeluOpset) {}

std::string OnnxGraph::add(const std::string& op, std::vector<std::string> inputs, Attributes attributes) {
    std::string name = layer_.empty() ? op : layer_ + "." + op;
    const int before = names_[name]++;
    if (before > 0) name += "." + std::to_string(before);
    model_.nodes.push_back({op, name, std::move(inputs), {name}, std::move(attributes)});
    return name;
}

std::string OnnxGraph::constant(const engine::Tensor& values) {
    return constant(values, values.shape().vec());
}

std::string OnnxGraph::constant(const engine::Tensor& values, const std::vector<int64_t>& shape) {
    const std::vector<double> numbers = values.to_vector();
    return constant(std::vector<float>(numbers.begin(), numbers.end()), shape);
}

std::string OnnxGraph::constant(const std::vector<float>& values, const std::vector<int64_t>& shape) {
    return store(OnnxType::f32, shape, bytes_of(values));
}

std::string OnnxGraph::integers(const std::vector<int64_t>& values) {
    return integers(values, {static_cast<int64_t>(values.size())});
}

std::string OnnxGraph::integers(const std::vector<int64_t>& values, const std::vector<int64_t>& shape) {
    return store(OnnxType::i64, shape, bytes_of(values));
}

std::string OnnxGraph::codes(const std::vector<int>& values, OnnxType type,
                             const std::vector<int64_t>& shape) {
    const int bits = bits_of(type);
    const bool is_signed = type == OnnxType::i8 || type == OnnxType::i4 || type == OnnxType::i2;
    const int low = is_signed ? -(1 << (bits - 1)) : 0, count = 1 << bits;
    const size_t in_byte = 8 / static_cast<size_t>(bits);
    std::vector<uint8_t> bytes((values.size() + in_byte - 1) / in_byte);
    for (size_t i = 0; i < values.size(); ++i) {
        VVTQ_CHECK(values[i] >= low && values[i] < low + count, "code ", values[i], " of ", bits, " bits");
        const unsigned stored = static_cast<unsigned>(values[i]) & static_cast<unsigned>(count - 1);
        bytes[i / in_byte] |= static_cast<uint8_t>(stored << (i % in_byte * static_cast<unsigned>(bits)));
    }
    return store(type, shape, std::move(bytes));
}

std::string OnnxGraph::reshape(const std::string& x, std::vector<int64_t> behind_first) {
    behind_first.insert(behind_first.begin(), -1);
    return add("Reshape", {x, integers(behind_first)});
}

std::string OnnxGraph::store(OnnxType type, const std::vector<int64_t>& shape, std::vector<uint8_t> bytes) {
    constexpr int kFourBits = 21, kTwoBits = 25;  // operator sets
    if (bits_of(type) == 4) need_opset(kFourBits);
    if (bits_of(type) == 2) need_opset(kTwoBits);
    const uint64_t hash =
        std::hash<std::string_view>()({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    const auto [begin, end] = stored_.equal_range(hash);
    for (auto at = begin; at != end; ++at) {
        const OnnxTensor& other = model_.constants[at->second];
        if (other.type == type && other.shape == shape && other.bytes == bytes) return other.name;
    }
    stored_.emplace(hash, model_.constants.size());
    const std::string name = "constant." + std::to_string(model_.constants.size());
    model_.constants.push_back({name, type, shape, std::move(bytes)});
    return name;
}

}  // namespace vvtq::quant
