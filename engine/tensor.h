// tensor: a value handle on contiguous row-major memory of one device.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/check.h"
#include "engine/dtype.h"
#include "engine/memory.h"
#include "engine/shape.h"

namespace vvtq::engine {

/// Shared handle {storage, shape, dtype, offset}. Copies share memory; `reshape` and `slice` share it too,
/// everything else is a kernel. A default-constructed tensor is undefined and stands for "none".
class Tensor {
  public:
    Tensor() = default;
    /// New memory with undefined content (NaN bytes in debug builds); none under ShapesOnly.
    Tensor(const Shape& shape, DType dtype, Device device = Device::cpu);

    static Tensor zeros(const Shape& shape, DType dtype, Device device = Device::cpu);
    static Tensor full(const Shape& shape, double value, DType dtype, Device device = Device::cpu);
    /// Copies host values to the device, converting to `dtype`, which is floating or i32 or i64. Throws where
    /// the count differs from shape.numel().
    static Tensor from(const std::vector<double>& values, const Shape& shape, DType dtype,
                       Device device = Device::cpu);

    bool defined() const { return storage_ != nullptr; }
    const Shape& shape() const { return shape_; }
    DType dtype() const { return dtype_; }
    Device device() const;
    int64_t numel() const { return shape_.numel(); }
    size_t bytes() const { return static_cast<size_t>(numel()) * size_of(dtype_); }

    /// Same memory, other shape. Throws where numel differs.
    Tensor reshape(const Shape& shape) const;
    /// Same memory, rows begin..end of the first dimension.
    Tensor slice(int64_t begin, int64_t end) const;
    /// Equal for tensors that share memory, also for those that were made under ShapesOnly and have none.
    const void* memory_id() const { return storage_.get(); }
    /// False where it was made under ShapesOnly.
    bool has_memory() const { return storage_ != nullptr && storage_->data() != nullptr; }
    /// True where no other Tensor handle shares the memory.
    bool sole_owner() const { return storage_.use_count() == 1; }

    /// Typed pointer to the first element. Throws where T is not the dtype.
    template <typename T>
    T* data() const {
        VVTQ_CHECK(defined(), "undefined tensor");
        VVTQ_CHECK(dtype_of<T>::value == dtype_, "tensor ", shape_.str(), " holds ", name_of(dtype_));
        return static_cast<T*>(raw());
    }
    /// Untyped. Throws where the tensor was made under ShapesOnly.
    void* raw() const;

    /// New tensor of the same shape, dtype and device with undefined content.
    Tensor like() const { return {shape_, dtype_, device()}; }
    /// New memory, same content (kernel `copy`).
    Tensor clone() const;
    /// Conversion of dtype (kernel `cast`); the same handle where nothing changes.
    Tensor to(DType dtype) const;
    /// On another device; the same handle where it is there already. Waits for the devices.
    Tensor to(Device device) const;
    /// All values as doubles on the host, for tests, logs and checkpoints. Waits for the device.
    std::vector<double> to_vector() const;
    /// The value of a tensor with one element. Waits for the device.
    double item() const;

  private:
    std::shared_ptr<Storage> storage_;
    Shape shape_;
    DType dtype_ = DType::f32;
    int64_t offset_ = 0;  // in elements
};

/// While one lives on this thread, new tensors have shape, dtype and device but no memory, and `full` and
/// `from` write nothing: for asking a model of any size for the shapes of its parameters.
class ShapesOnly {
  public:
    ShapesOnly();
    ~ShapesOnly();
    ShapesOnly(const ShapesOnly&) = delete;
    ShapesOnly& operator=(const ShapesOnly&) = delete;
    /// Whether one lives on this thread.
    static bool active();

  private:
    bool before_;
};

}  // namespace vvtq::engine
