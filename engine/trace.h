// trace: the kernel calls of some work, to count them and to run them again one by one.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/kernels.h"

namespace vvtq::engine {

/// y (rows, columns) = x (rows, inner) . w (inner, columns).
struct ProductSize {
    int64_t rows = 0, columns = 0, inner = 0;
};

/// Calls of one kernel with arguments of one shape.
struct KernelCall {
    std::string kernel;            // "linear"
    std::string shapes;            // of its tensors: "(8, 192) (192, 192)"
    int64_t count = 0;             // of such calls
    int64_t nested = 0;            // of those, from within another kernel
    double bytes = 0;              // read and written by one: of every tensor once
    double flops = 0;              // multiplications and additions of its matrix products; 0 without any
    ProductSize product;           // of a matrix product forward, all pairs of a batch as one; else zeros
    std::function<void()> repeat;  // calls it again, with the arguments of the first call
};

/// While one lives, every kernel call of this thread on `device` is noted; nothing else changes. Tensors of
/// the first call of each shape are kept. Traces do not nest. Graphs are not to be recorded or replayed
/// meanwhile.
class KernelTrace {
  public:
    /// Notes all kernels, or those of matrix products alone.
    explicit KernelTrace(Device device, bool products_only = false);
    ~KernelTrace();
    KernelTrace(const KernelTrace&) = delete;
    KernelTrace& operator=(const KernelTrace&) = delete;

    /// In the order of their first calls.
    const std::vector<KernelCall>& calls() const { return calls_; }

    /// The table that `kernels` gives while a trace lives; null without one. For engine/backend.cpp.
    static const Kernels* table(Device device, const Kernels& untraced);

  private:
    friend struct TraceAccess;
    Device device_;
    bool products_only_;
    int depth_ = 0;  // of calls that are under way
    const Kernels* untraced_ = nullptr;
    std::vector<KernelCall> calls_;
    std::map<std::string, size_t> known_;  // kernel and shapes -> place in calls_
};

/// linear, its gradients, or batched_matmul.
bool is_product(std::string_view kernel);

}  // namespace vvtq::engine
