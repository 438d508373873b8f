// matmul: products by cuBLASLt: f32 (TF32 where allowed) and bf16 factors with f32 sums, one plan for each
// kind of product, one workspace for all.
#include <cublasLt.h>

#include <map>
#include <tuple>

#include "engine/cuda/families.h"
#include "engine/cuda/runtime.h"
#include "engine/device.h"

namespace vvtq::engine::cuda {
namespace {

constexpr size_t kWorkspace = size_t{64} << 20;

void check_cublas(cublasStatus_t status, const char* call) {
    if (status != CUBLAS_STATUS_SUCCESS) run_error("cuBLASLt: ", call, ": ", cublasLtGetStatusString(status));
}

cudaDataType_t data_type(DType dtype) {
    switch (dtype) {
        case DType::f32:
            return CUDA_R_32F;
        case DType::bf16:
            return CUDA_R_16BF;
        default:
            internal_error("products of ", name_of(dtype), " on CUDA");
    }
}

/// The greatest power of two up to 256 that divides an address: what cuBLASLt may assume of it.
uint32_t alignment_of(const void* address) {
    const auto bits = reinterpret_cast<uintptr_t>(address);
    uint32_t alignment = 256;
    while (bits % alignment != 0) alignment /= 2;
    return alignment;
}

/// A matrix in row-major order; `transposed` swaps its dimensions in the product.
struct Operand {
    const void* data;
    DType dtype;
    int64_t ld;
    bool transposed;
    int64_t stride = 0;  // from one product of a batch to the next
};

/// y (m, n) = scale a (m, k) . b (k, n) + bias (n), `batch` times. scale, bias: null for none; bias of y's
/// dtype.
struct Product {
    int64_t m, n, k;
    Operand a, b;
    void* y;
    DType y_dtype;
    int64_t ldy;
    int64_t y_stride = 0;
    int64_t batch = 1;
    const void* scale = nullptr;
    const void* bias = nullptr;
};

class Layout {
  public:
    Layout(DType dtype, int64_t rows, int64_t cols, int64_t ld, int64_t batch, int64_t stride) {
        check_cublas(cublasLtMatrixLayoutCreate(&handle_, data_type(dtype), static_cast<uint64_t>(rows),
                                                static_cast<uint64_t>(cols), ld),
                     "layout");
        if (batch == 1) return;
        const auto count = static_cast<int32_t>(batch);
        cublasLtMatrixLayoutSetAttribute(handle_, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
        cublasLtMatrixLayoutSetAttribute(handle_, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                         sizeof stride);
    }
    ~Layout() { cublasLtMatrixLayoutDestroy(handle_); }
    Layout(const Layout&) = delete;
    Layout& operator=(const Layout&) = delete;
    cublasLtMatrixLayout_t get() const { return handle_; }

  private:
    cublasLtMatrixLayout_t handle_ = nullptr;
};

/// A product with everything but its addresses settled. cuBLASLt is column-major: a row-major y = a b is
/// there y^T = b^T a^T, so its first factor is our b.
class Plan {
  public:
    Plan(cublasLtHandle_t handle, const Product& p, cublasComputeType_t compute,
         const std::vector<uint32_t>& alignments)
        : a_(p.b.dtype, p.b.transposed ? p.k : p.n, p.b.transposed ? p.n : p.k, p.b.ld, p.batch, p.b.stride),
          b_(p.a.dtype, p.a.transposed ? p.m : p.k, p.a.transposed ? p.k : p.m, p.a.ld, p.batch, p.a.stride),
          y_(p.y_dtype, p.n, p.m, p.ldy, p.batch, p.y_stride) {
        check_cublas(cublasLtMatmulDescCreate(&description_, compute, CUDA_R_32F), "description");
        const cublasOperation_t first = p.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
        const cublasOperation_t second = p.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
        set(CUBLASLT_MATMUL_DESC_TRANSA, first);
        set(CUBLASLT_MATMUL_DESC_TRANSB, second);
        set(CUBLASLT_MATMUL_DESC_POINTER_MODE, static_cast<int32_t>(CUBLASLT_POINTER_MODE_DEVICE));
        if (p.bias != nullptr) {
            set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
            set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(p.y_dtype));
            set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
        }
        choose(handle, alignments, p);
    }
    ~Plan() { cublasLtMatmulDescDestroy(description_); }
    Plan(const Plan&) = delete;
    Plan& operator=(const Plan&) = delete;

    void run(cublasLtHandle_t handle, const Product& p, const float* constants, void* workspace) {
        if (p.bias != nullptr) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
        const void* scale = p.scale != nullptr ? p.scale : constants + 1;
        check_cublas(
            cublasLtMatmul(handle, description_, scale, p.b.data, a_.get(), p.a.data, b_.get(), constants,
                           p.y, y_.get(), p.y, y_.get(), &algorithm_, workspace, kWorkspace, gpu().stream),
            "product");
    }

  private:
    template <typename T>
    void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
        check_cublas(cublasLtMatmulDescSetAttribute(description_, attribute, &value, sizeof value),
                     "attribute");
    }
    void choose(cublasLtHandle_t handle, const std::vector<uint32_t>& alignments, const Product& p) {
        cublasLtMatmulPreference_t preference = nullptr;
        check_cublas(cublasLtMatmulPreferenceCreate(&preference), "preference");
        const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
            cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value);
        };
        prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignments[0]);
        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignments[1]);
        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignments[2]);
        prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignments[2]);
        cublasLtMatmulHeuristicResult_t found{};
        int count = 0;
        const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
            handle, description_, a_.get(), b_.get(), y_.get(), y_.get(), preference, 1, &found, &count);
        cublasLtMatmulPreferenceDestroy(preference);
        if (status != CUBLAS_STATUS_SUCCESS || count == 0) {
            run_error("cuBLASLt has no way to multiply (", p.m, ", ", p.k, ") by (", p.k, ", ", p.n, ") of ",
                      name_of(p.a.dtype), " into ", name_of(p.y_dtype), ": ",
                      cublasLtGetStatusString(status));
        }
        algorithm_ = found.algo;
    }

    cublasLtMatmulDesc_t description_ = nullptr;
    Layout a_, b_, y_;
    cublasLtMatmulAlgo_t algorithm_{};
};

/// The handle, its workspace, and the plans made so far. Plans come from cuBLASLt's own ranking, not from
/// timing, so that a run repeated takes the same ones.
class Multiplier {
  public:
    Multiplier() {
        check_cublas(cublasLtCreate(&handle_), "handle");
        const float constants[2] = {0.0f, 1.0f};
        VVTQ_CUDA(cudaMalloc(&constants_, sizeof constants));
        VVTQ_CUDA(cudaMemcpy(constants_, constants, sizeof constants, cudaMemcpyHostToDevice));
    }

    void run(const Product& p) {
        if (p.m == 0 || p.n == 0 || p.batch == 0) return;
        const bool f32 = p.a.dtype == DType::f32;
        const cublasComputeType_t compute =
            f32 && tf32_allowed() ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
        const std::vector<uint32_t> alignments = {alignment_of(p.b.data), alignment_of(p.a.data),
                                                  alignment_of(p.y)};
        const Key key{p.m,
                      p.n,
                      p.k,
                      p.batch,
                      {p.a.ld, p.a.stride, p.b.ld, p.b.stride, p.ldy, p.y_stride},
                      {static_cast<int>(p.a.dtype), static_cast<int>(p.y_dtype), p.a.transposed,
                       p.b.transposed, p.bias != nullptr, static_cast<int>(compute)},
                      alignments};
        std::unique_ptr<Plan>& plan = plans_[key];
        if (plan == nullptr) plan = std::make_unique<Plan>(handle_, p, compute, alignments);
        plan->run(handle_, p, constants_, workspace_.raw());
    }

  private:
    using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, std::vector<int64_t>, std::vector<int>,
                           std::vector<uint32_t>>;
    cublasLtHandle_t handle_ = nullptr;
    float* constants_ = nullptr;  // 0, 1
    Tensor workspace_{Shape{static_cast<int64_t>(kWorkspace)}, DType::u8, Device::cuda};
    std::map<Key, std::unique_ptr<Plan>> plans_;
};

Multiplier& multiplier() {
    gpu();
    static Multiplier* const instance = new Multiplier;  // lives as long as the process
    return *instance;
}

Operand operand(Arg t, int64_t ld, bool transposed) { return {t.raw(), t.dtype(), ld, transposed}; }

const float* scale_of(Arg scale) {
    if (scale.defined()) check_size(scale, 1, DType::f32);
    return pointer<float>(scale);
}

}  // namespace

void linear(Arg x, Arg w, Arg scale, Arg bias, Arg y) {
    const int64_t m = x.shape().rows(), k = x.shape().cols(), n = w.shape().rows();
    VVTQ_CHECK(w.shape().cols() == k && w.dtype() == x.dtype() && y.numel() == m * n, x.shape().str(), " . ",
               w.shape().str(), "^T to ", y.shape().str());
    if (bias.defined()) check_size(bias, n, y.dtype());
    Product p{m, n, k, operand(x, k, false), operand(w, k, true), y.raw(), y.dtype(), n};
    p.scale = scale_of(scale);
    if (bias.defined()) p.bias = bias.raw();
    multiplier().run(p);
}

void linear_backward_input(Arg dy, Arg w, Arg scale, Arg dx) {
    const int64_t m = dy.shape().rows(), n = dy.shape().cols(), k = w.shape().cols();
    VVTQ_CHECK(w.shape().rows() == n && w.dtype() == dy.dtype() && dx.numel() == m * k, dy.shape().str(),
               " . ", w.shape().str(), " to ", dx.shape().str());
    Product p{m, k, n, operand(dy, n, false), operand(w, k, false), dx.raw(), dx.dtype(), k};
    p.scale = scale_of(scale);
    multiplier().run(p);
}

void linear_backward_weight(Arg dy, Arg x, Arg scale, Arg dw) {
    const int64_t m = dy.shape().rows(), n = dy.shape().cols(), k = x.shape().cols();
    VVTQ_CHECK(x.shape().rows() == m && x.dtype() == dy.dtype(), dy.shape().str(), "^T . ", x.shape().str());
    check_size(dw, n * k, DType::f32);
    Product p{n, k, m, operand(dy, n, true), operand(x, k, false), dw.raw(), dw.dtype(), k};
    p.scale = scale_of(scale);
    multiplier().run(p);
}

void batched_matmul(const BatchedShape& shape, Arg a, Arg b, Arg y) {
    VVTQ_CHECK(a.dtype() == y.dtype() && b.dtype() == y.dtype() && !shape.y.transposed && shape.k > 0,
               "mixed dtypes or a transposed output");
    const auto at = [](Arg t, const MatrixLayout& layout, int64_t inner) {
        char* start =
            static_cast<char*>(t.raw()) + static_cast<size_t>(inner * layout.inner) * size_of(t.dtype());
        return Operand{start, t.dtype(), layout.ld, layout.transposed, layout.outer};
    };
    for (int64_t j = 0; j < shape.inner; ++j) {  // cuBLASLt's batches have one stride
        const Operand out = at(y, shape.y, j);
        multiplier().run({shape.m, shape.n, shape.k, at(a, shape.a, j), at(b, shape.b, j),
                          const_cast<void*>(out.data), y.dtype(), shape.y.ld, shape.y.outer, shape.outer});
    }
}

}  // namespace vvtq::engine::cuda
