#include "engine/tensor.h"

#include <cstring>

#include "engine/bf16.h"
#include "engine/device.h"
#include "engine/kernels.h"

namespace vvtq::engine {
namespace {

template <typename T>
void store(const std::vector<double>& values, void* to) {
    for (size_t i = 0; i < values.size(); ++i) static_cast<T*>(to)[i] = static_cast<T>(values[i]);
}

template <typename T>
void load(const void* from, std::vector<double>& values) {
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<double>(static_cast<const T*>(from)[i]);
}

/// Host values as bytes of a dtype.
void encode(const std::vector<double>& values, DType dtype, void* to) {
    switch (dtype) {
        case DType::f32:
            return store<float>(values, to);
        case DType::f64:
            return store<double>(values, to);
        case DType::i32:
            return store<int32_t>(values, to);
        case DType::i64:
            return store<int64_t>(values, to);
        case DType::i8:
            return store<int8_t>(values, to);
        case DType::u8:
            return store<uint8_t>(values, to);
        case DType::bf16:
            for (size_t i = 0; i < values.size(); ++i) {
                static_cast<uint16_t*>(to)[i] = bf16_bits(static_cast<float>(values[i]));
            }
    }
}

void decode(const void* from, DType dtype, std::vector<double>& values) {
    switch (dtype) {
        case DType::f32:
            return load<float>(from, values);
        case DType::f64:
            return load<double>(from, values);
        case DType::i32:
            return load<int32_t>(from, values);
        case DType::i64:
            return load<int64_t>(from, values);
        case DType::i8:
            return load<int8_t>(from, values);
        case DType::u8:
            return load<uint8_t>(from, values);
        case DType::bf16:
            for (size_t i = 0; i < values.size(); ++i) {
                values[i] = static_cast<double>(bf16_value(static_cast<const uint16_t*>(from)[i]));
            }
    }
}

thread_local bool shapes_only = false;

std::shared_ptr<Storage> make_storage(const Shape& shape, DType dtype, Device device) {
    if (shapes_only) return std::make_shared<Storage>(device);
    return std::make_shared<Storage>(static_cast<size_t>(shape.numel()) * size_of(dtype), device);
}

}  // namespace

ShapesOnly::ShapesOnly() : before_(shapes_only) { shapes_only = true; }

ShapesOnly::~ShapesOnly() { shapes_only = before_; }

bool ShapesOnly::active() { return shapes_only; }

Tensor::Tensor(const Shape& shape, DType dtype, Device device)
    : storage_(make_storage(shape, dtype, device)), shape_(shape), dtype_(dtype) {}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
    return full(shape, 0.0, dtype, device);
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
    Tensor y(shape, dtype, device);
    if (!shapes_only) kernels(device).fill(value, y);
    return y;
}

Tensor Tensor::from(const std::vector<double>& values, const Shape& shape, DType dtype, Device device) {
    VVTQ_CHECK(static_cast<int64_t>(values.size()) == shape.numel(), values.size(), " values for ",
               shape.str());
    if (shapes_only) return {shape, dtype, device};
    Tensor host(shape, dtype, Device::cpu);
    encode(values, dtype, host.raw());
    return host.to(device);
}

Device Tensor::device() const {
    VVTQ_CHECK(defined(), "undefined tensor");
    return storage_->device();
}

Tensor Tensor::reshape(const Shape& shape) const {
    VVTQ_CHECK(shape.numel() == numel(), shape_.str(), " as ", shape.str());
    Tensor y = *this;
    y.shape_ = shape;
    return y;
}

Tensor Tensor::slice(int64_t begin, int64_t end) const {
    VVTQ_CHECK(shape_.rank() > 0 && begin >= 0 && begin <= end && end <= shape_[0], "rows ", begin, "..", end,
               " of ", shape_.str());
    std::vector<int64_t> sizes = shape_.vec();
    const int64_t row = shape_[0] > 0 ? numel() / shape_[0] : 0;
    sizes[0] = end - begin;
    Tensor y = *this;
    y.shape_ = Shape(sizes);
    y.offset_ += begin * row;
    return y;
}

void* Tensor::raw() const {
    VVTQ_CHECK(defined(), "undefined tensor");
    VVTQ_CHECK(storage_->data() != nullptr || numel() == 0, shape_.str(), " was made under ShapesOnly");
    return static_cast<char*>(storage_->data()) + static_cast<size_t>(offset_) * size_of(dtype_);
}

Tensor Tensor::clone() const {
    Tensor y = like();
    kernels(device()).copy(*this, y);
    return y;
}

Tensor Tensor::to(DType dtype) const {
    if (dtype == dtype_) return *this;
    Tensor y(shape_, dtype, device());
    kernels(device()).cast(*this, y);
    return y;
}

Tensor Tensor::to(Device device) const {
    if (device == this->device()) return *this;
    Tensor y(shape_, dtype_, device);
    if (device == Device::cpu) {
        runtime(this->device()).download(raw(), y.raw(), bytes());
    } else {
        VVTQ_CHECK(this->device() == Device::cpu, "copies between GPUs");
        runtime(device).upload(raw(), y.raw(), bytes());
    }
    return y;
}

std::vector<double> Tensor::to_vector() const {
    const Tensor host = to(Device::cpu);
    std::vector<double> values(static_cast<size_t>(numel()));
    decode(host.raw(), dtype_, values);
    return values;
}

double Tensor::item() const {
    VVTQ_CHECK(numel() == 1, "item of ", shape_.str());
    return to_vector()[0];
}

}  // namespace vvtq::engine
