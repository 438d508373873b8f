// composed: the fused kernels as sequences of simple ones, for any device. The CPU's table uses them; on CUDA
// they serve where a fused kernel does not apply, and the tests hold the fused kernels against them.
#pragma once

#include "engine/kernels.h"

namespace vvtq::engine::composed {

// As the kernels of the same names in engine/kernels.h.
void residual_norm(const Tensor& x, const Tensor& f, const Tensor& keep, const Tensor& gamma,
                   const Tensor& beta, double eps, const QuantParams& quantizer, const Tensor& y,
                   const Tensor& q, const Tensor& mean, const Tensor& rstd);
void residual_norm_backward(const Tensor& dq, const Tensor& dy, const Tensor& y, const Tensor& keep,
                            const Tensor& gamma, const Tensor& beta, const Tensor& mean, const Tensor& rstd,
                            const QuantParams& quantizer, const Tensor& dx, const Tensor& df,
                            const Tensor& dgamma, const Tensor& dbeta, const Tensor& dscale);
void gelu_quantize(const Tensor& z, const QuantParams& quantizer, const Tensor& q);
void gelu_quantize_backward(const Tensor& dq, const Tensor& z, const QuantParams& quantizer, const Tensor& dz,
                            const Tensor& q, const Tensor& dscale, const Tensor& dbeta, const Tensor& dbias);
/// These two hold scores (B groups, H, n, n) in memory, and q, k and v in the groups' order.
void attention(const Tensor& z, const AttentionProblem& problem, const Tensor& o, const Tensor& codes,
               const Tensor& softmax);
void attention_backward(const Tensor& dy, const Tensor& z, const AttentionProblem& problem, const Tensor& o,
                        const Tensor& softmax, const Tensor& dz, const Tensor& dbias, const Tensor& dscales,
                        const Tensor& dscore_bias);

}  // namespace vvtq::engine::composed
