// residual_norm_backward: gradients of residual branch, LayerNorm and quantizer in one pass over rows.
//
// Threads keep the sums of their columns' dgamma and dbeta in registers while they walk over rows and write
// them once a block; a second small kernel adds up the blocks.
#include "engine/cuda/families.h"
#include "engine/cuda/residual_norm.cuh"

namespace vvtq::engine::cuda {
namespace {

constexpr int kRowThreads = 128;  // of backward_rows
constexpr int kThreads = 256;
constexpr int kFinishThreads = 1024;

/// Blocks of backward_rows that a multiprocessor's registers hold.
constexpr int resident_blocks(int vecs, bool exact) { return (vecs > 3 ? 3 : 4) - (exact ? 0 : 1); }

template <typename T>
struct Backward {
    const T *dq, *dy, *y;
    const float *keep, *gamma, *beta, *mean, *rstd;
    StepArgument step;
    T *dx, *df;
    float* partial;  // (blocks, stride): dgamma, dbeta, dalpha of each block
    int64_t stride;
    unsigned rows, rows_per_sample;
    int cols;
};

/// Takes dq to dn = dq in(n) and adds dq (q - in v) to dalpha.
__device__ float through(const QuickStep& step, float dq, float n, float& dalpha) {
    const float v = step.scaled(n);
    const float clamped = step.clamped(v);
    const bool in = clamped == v;
    dalpha += dq * (QuickStep::rounded(clamped) - (in ? v : 0.0f));
    return in ? dq : 0.0f;
}

template <typename T, int Lanes, int Vecs, bool Exact>
__global__ void __launch_bounds__(kRowThreads, resident_blocks(Vecs, Exact))
    backward_rows(const Backward<T> p) {
    using Values = Vector<T, kWidth>;
    using Floats = Vector<float, kWidth>;
    constexpr int kWarps = kRowThreads / 32;
    constexpr unsigned kRows = 32 / Lanes;
    const Columns<Lanes, Exact> columns{static_cast<int>(threadIdx.x) % Lanes, p.cols};
    const int warp = threadIdx.x / 32;
    const QuickStep step(p.step.load());
    // Wide rows leave no registers for gamma and beta, which then wait where the sums will be.
    constexpr bool kParametersShared = Vecs > 3;
    extern __shared__ float shared[];  // (2, cols)
    Floats gamma[Vecs], beta[Vecs];
    if constexpr (kParametersShared) {
        for (int c = threadIdx.x; c < p.cols; c += kRowThreads) {
            shared[c] = p.gamma[c];
            shared[p.cols + c] = step.on ? p.beta[c] : 0.0f;
        }
        __syncthreads();
    } else {
#pragma unroll
        for (int i = 0; i < Vecs; ++i) {
            if (!columns.has(i)) continue;
            gamma[i] = Floats::load(p.gamma + columns.at(i));
            beta[i] = step.on ? Floats::load(p.beta + columns.at(i)) : Floats{};
        }
    }
    float dgamma[Vecs][kWidth] = {}, dbeta[Vecs][kWidth] = {}, dalpha = 0.0f;
    const int64_t warps = int64_t{gridDim.x} * kWarps;
    int64_t first = (int64_t{blockIdx.x} * kWarps + warp) * kRows;
    for (; first < p.rows; first += warps * kRows) {
        const int64_t own = first + threadIdx.x % 32 / Lanes;
        const bool live = Lanes == 32 || own < p.rows;
        const int64_t row = live ? own : p.rows - 1;
        const int64_t begin = row * p.cols;
        Values y[Vecs], dq[Vecs], dy[Vecs];
#pragma unroll
        for (int i = 0; i < Vecs; ++i) {
            if (!columns.has(i)) continue;
            y[i] = Values::load(p.y + begin + columns.at(i));
            dq[i] = live ? Values::load(p.dq + begin + columns.at(i)) : Values{};
            if (p.dy != nullptr) dy[i] = Values::load(p.dy + begin + columns.at(i));
        }
        const float mean = p.mean[row], rstd = p.rstd[row];
        float xhat[Vecs][kWidth], scaled[Vecs][kWidth];
        float sum = 0.0f, sum_xhat = 0.0f;
#pragma unroll
        for (int i = 0; i < Vecs; ++i) {
            if (!columns.has(i)) continue;
            if constexpr (kParametersShared) {
                gamma[i] = Floats::load(shared + columns.at(i));
                beta[i] = Floats::load(shared + p.cols + columns.at(i));
            }
#pragma unroll
            for (int j = 0; j < kWidth; ++j) {
                xhat[i][j] = __fmul_rn(__fsub_rn(y[i][j], mean), rstd);
                const float n = normalized(y[i][j], mean, rstd, gamma[i][j], beta[i][j]);
                const float dn = through(step, dq[i][j], n, dalpha);
                dgamma[i][j] += dn * xhat[i][j];
                dbeta[i][j] += dn;
                scaled[i][j] = dn * gamma[i][j];
                sum += scaled[i][j];
                sum_xhat += scaled[i][j] * xhat[i][j];
            }
        }
        const float mean_all = group_sum<Lanes>(sum) / static_cast<float>(p.cols);
        const float mean_xhat = group_sum<Lanes>(sum_xhat) / static_cast<float>(p.cols);
        const float keep = p.keep != nullptr ? p.keep[static_cast<unsigned>(row) / p.rows_per_sample] : 1.0f;
#pragma unroll
        for (int i = 0; i < Vecs; ++i) {
            if (!columns.has(i) || !live) continue;
            float dx[kWidth];
#pragma unroll
            for (int j = 0; j < kWidth; ++j) {
                dx[j] = rstd * (scaled[i][j] - mean_all - xhat[i][j] * mean_xhat);
                if (p.dy != nullptr) dx[j] += dy[i][j];
            }
            Values::of(dx).store(p.dx + begin + columns.at(i));
            if (p.df == nullptr) continue;
#pragma unroll
            for (int j = 0; j < kWidth; ++j) dx[j] *= keep;
            Values::of(dx).store(p.df + begin + columns.at(i));
        }
    }

    __syncthreads();  // gamma and beta may still be read
    for (int turn = 0; turn < kWarps; ++turn) {
#pragma unroll
        for (int i = 0; i < Vecs; ++i) {
#pragma unroll
            for (int j = 0; j < kWidth; ++j) {
                float g = dgamma[i][j], b = dbeta[i][j];
                if (Lanes == 16) {
                    g += __shfl_xor_sync(0xffffffffu, g, 16);
                    b += __shfl_xor_sync(0xffffffffu, b, 16);
                }
                if (warp != turn || threadIdx.x % 32 >= Lanes || !columns.has(i)) continue;
                float& at = shared[columns.at(i) + j];
                float& at_beta = shared[p.cols + columns.at(i) + j];
                at = turn == 0 ? g : at + g;
                at_beta = turn == 0 ? b : at_beta + b;
            }
        }
        __syncthreads();
    }
    float* out = p.partial + blockIdx.x * p.stride;
    for (int c = threadIdx.x; c < 2 * p.cols; c += kRowThreads) out[c] = shared[c];
    dalpha = block_sum<kRowThreads>(dalpha);
    if (threadIdx.x == 0) out[2 * p.cols] = dalpha;
}

/// dx and df for any number of columns: a warp a row, which it reads twice.
template <typename T>
__global__ void __launch_bounds__(kThreads) backward_any(const Backward<T> p) {
    const int lane = threadIdx.x % 32;
    const QuickStep step(p.step.load());
    int64_t row = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
    for (; row < p.rows; row += int64_t{gridDim.x} * (kThreads / 32)) {
        const int64_t begin = row * p.cols;
        const float mean = p.mean[row], rstd = p.rstd[row];
        const float keep = p.keep != nullptr ? p.keep[static_cast<unsigned>(row) / p.rows_per_sample] : 1.0f;
        float unused = 0.0f, xhat = 0.0f;
        const auto scaled = [&](int c) {
            const float y = to_float(p.y[begin + c]);
            xhat = __fmul_rn(__fsub_rn(y, mean), rstd);
            const float n = normalized(y, mean, rstd, p.gamma[c], step.on ? p.beta[c] : 0.0f);
            return through(step, to_float(p.dq[begin + c]), n, unused) * p.gamma[c];
        };
        float sum = 0.0f, sum_xhat = 0.0f;
        for (int c = lane; c < p.cols; c += 32) {
            const float s = scaled(c);
            sum += s;
            sum_xhat += s * xhat;
        }
        const float mean_all = warp_sum(sum) / static_cast<float>(p.cols);
        const float mean_xhat = warp_sum(sum_xhat) / static_cast<float>(p.cols);
        for (int c = lane; c < p.cols; c += 32) {
            const float s = scaled(c);
            float dx = rstd * (s - mean_all - xhat * mean_xhat);
            if (p.dy != nullptr) dx += to_float(p.dy[begin + c]);
            p.dx[begin + c] = from_float<T>(dx);
            if (p.df != nullptr) p.df[begin + c] = from_float<T>(keep * dx);
        }
    }
}

/// dgamma, dbeta, dalpha for any number of columns: a lane a column. Runs before backward_any, whose dx may
/// take dq's memory. Block (x, y) has every x-th group of rows and 32 columns.
template <typename T>
__global__ void __launch_bounds__(kThreads) backward_columns(const Backward<T> p) {
    constexpr int kWarps = kThreads / 32;
    __shared__ float sums[2][kWarps][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int c = static_cast<int>(blockIdx.y) * 32 + lane;
    const QuickStep step(p.step.load());
    float dgamma = 0.0f, dbeta = 0.0f, dalpha = 0.0f;
    if (c < p.cols) {
        const float gamma = p.gamma[c], beta = step.on ? p.beta[c] : 0.0f;
        int64_t row = int64_t{blockIdx.x} * kWarps + warp;
        for (; row < p.rows; row += int64_t{gridDim.x} * kWarps) {
            const float y = to_float(p.y[row * p.cols + c]);
            const float mean = p.mean[row], rstd = p.rstd[row];
            const float n = normalized(y, mean, rstd, gamma, beta);
            const float dn = through(step, to_float(p.dq[row * p.cols + c]), n, dalpha);
            dgamma += dn * __fmul_rn(__fsub_rn(y, mean), rstd);
            dbeta += dn;
        }
    }
    sums[0][warp][lane] = dgamma;
    sums[1][warp][lane] = dbeta;
    dalpha = block_sum<kThreads>(dalpha);
    float* out = p.partial + blockIdx.x * p.stride;
    if (threadIdx.x == 0) out[2 * p.cols + blockIdx.y] = dalpha;
    if (warp > 1 || c >= p.cols) return;
    float total = 0.0f;
    for (int w = 0; w < kWarps; ++w) total += sums[warp][w][lane];
    out[warp * p.cols + c] = total;
}

/// Adds up what blocks left: column by column, and in the last block dalpha.
__global__ void __launch_bounds__(kFinishThreads)
    finish(const float* partial, int64_t blocks, int64_t stride, int64_t cols, const float* g, float* dgamma,
           float* dbeta, float* dalpha) {
    const int lane = threadIdx.x % 32;
    if (blockIdx.x < gridDim.x - 1) {
        const int64_t c = int64_t{blockIdx.x} * 32 + lane;
        const float sum = column_sum<kFinishThreads>(partial, blocks, stride, c, 2 * cols);
        if (threadIdx.x < 32 && c < 2 * cols) (c < cols ? dgamma[c] : dbeta[c - cols]) = sum;
        return;
    }
    if (dalpha == nullptr) return;
    float sum = 0.0f;
    for (int64_t c = 2 * cols; c < stride; c += 32) {
        sum += column_sum<kFinishThreads>(partial, blocks, stride, c + lane, stride);
    }
    if (threadIdx.x >= 32) return;
    sum = warp_sum(sum);
    if (lane == 0) *dalpha = g != nullptr ? *g * sum : 0.0f;
}

}  // namespace

void residual_norm_backward(Arg dq, Arg dy, Arg y, Arg keep, Arg gamma, Arg beta, Arg mean, Arg rstd,
                            const LsqStep& step, Arg dx, Arg df, Arg dgamma, Arg dbeta, Arg dalpha) {
    const int64_t rows = y.shape().rows(), cols = y.shape().cols();
    check_like(y, dq);
    check_like(y, dx);
    if (dy.defined()) check_like(y, dy);
    if (df.defined()) check_like(y, df);
    for (const Tensor* t : {&gamma, &dgamma, &dbeta}) check_size(*t, cols, DType::f32);
    if (step.defined()) check_size(beta, cols, DType::f32);
    check_size(mean, rows, DType::f32);
    check_size(rstd, rows, DType::f32);
    with_activation(y.dtype(), [&]<typename T>() {
        Backward<T> p{pointer<T>(dq),
                      pointer<T>(dy),
                      pointer<T>(y),
                      pointer<float>(keep),
                      pointer<float>(gamma),
                      pointer<float>(beta),
                      pointer<float>(mean),
                      pointer<float>(rstd),
                      argument_of(step),
                      pointer<T>(dx),
                      pointer<T>(df),
                      nullptr,
                      2 * cols + 1,
                      static_cast<unsigned>(rows),
                      rows_per_sample(keep, rows),
                      static_cast<int>(cols)};
        constexpr int64_t kWarps = kThreads / 32;
        Tensor partial;
        int64_t blocks = 0;
        const auto workspace = [&] {
            partial = Tensor(Shape{blocks, p.stride}, DType::f32, Device::cuda);
            p.partial = pointer<float>(partial);
        };
        const bool fits = aligned(16, dq, dy, y, gamma, beta, dx, df) &&
                          with_layout(cols, [&]<int Lanes, int Vecs, bool Exact>() {
                              blocks =
                                  resident(resident_blocks(Vecs, Exact), ceil_div(rows, kRowThreads / Lanes));
                              workspace();
                              launch(backward_rows<T, Lanes, Vecs, Exact>, static_cast<unsigned>(blocks),
                                     kRowThreads, static_cast<size_t>(2 * cols) * sizeof(float), p);
                          });
        if (!fits) {
            const int64_t groups = ceil_div(cols, 32);
            p.stride = 2 * cols + groups;
            blocks = resident(std::max<int64_t>(1, 8 / groups), ceil_div(rows, kWarps));
            workspace();
            const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(groups));
            launch(backward_columns<T>, grid, kThreads, 0, p);
            launch(backward_any<T>, static_cast<unsigned>(resident(8, ceil_div(rows, kWarps))), kThreads, 0,
                   p);
        }
        launch(finish, static_cast<unsigned>(ceil_div(2 * cols, 32) + 1), kFinishThreads, 0, p.partial,
               blocks, p.stride, cols, step.defined() ? pointer<float>(step.g) : nullptr,
               pointer<float>(dgamma), pointer<float>(dbeta), pointer<float>(dalpha));
    });
}

}  // namespace vvtq::engine::cuda
