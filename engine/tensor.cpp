#include "engine/tensor.h"

#include <cstring>

#include "engine/kernels.h"

namespace vvtq::engine {

Tensor::Tensor(const Shape& shape, DType dtype, Device device)
    : storage_(std::make_shared<Storage>(static_cast<size_t>(shape.numel()) * size_of(dtype), device)),
      shape_(shape),
      dtype_(dtype) {}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
    return full(shape, 0.0, dtype, device);
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
    Tensor y(shape, dtype, device);
    kernels(device).fill(value, y);
    return y;
}

Tensor Tensor::from(const std::vector<double>& values, const Shape& shape, DType dtype, Device device) {
    VVTQ_CHECK(static_cast<int64_t>(values.size()) == shape.numel(), values.size(), " values for ",
               shape.str());
    VVTQ_CHECK(device == Device::cpu, "host values go to the CPU");
    Tensor host(shape, DType::f64, Device::cpu);
    if (!values.empty()) std::memcpy(host.raw(), values.data(), host.bytes());
    return host.to(dtype);
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

std::vector<double> Tensor::to_vector() const {
    const Tensor wide = to(DType::f64);
    const double* values = wide.data<double>();
    return {values, values + numel()};
}

double Tensor::item() const {
    VVTQ_CHECK(numel() == 1, "item of ", shape_.str());
    return to_vector()[0];
}

}  // namespace vvtq::engine
