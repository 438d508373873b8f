// families: the CPU's kernels, to be put into the table; equations and shapes are in engine/kernels.h.
#pragma once

#include "engine/kernels.h"

namespace vvtq::engine::cpu {

using In = const Tensor&;

// elementwise.cpp
void fill(double value, In y);
void copy(In x, In y);
void cast(In x, In y);
void add(In a, In b, In y);
void accumulate_add(In x, In y);
void scale(In x, double s, In y);
void scale_by(In x, In s, In y);
void add_broadcast(In x, In p, In y);
void residual(In x, In f, In keep, In y);
void scale_samples(In x, In s, In y);
void take_columns(In z, int64_t first, In s, In t, In bias, In y);
void put_columns(In x, In s, int64_t first, In z);
void accumulate_outer(In u, In s, In y);
void gelu(In x, In y);
void gelu_backward(In dy, In x, In dx);

// reduce.cpp
void sum_rows(In x, In y);
void sum(In x, In y);
void sum_abs(In x, In y);
void sum_squares(In x, In y);
void count_not_finite(In x, In y);

// norm.cpp
void layer_norm(In x, In gamma, In beta, double eps, In y, In mean, In rstd);
void layer_norm_apply(In x, In mean, In rstd, In gamma, In beta, In y);
void layer_norm_backward(In dy, In x, In gamma, In mean, In rstd, In dx, In dgamma, In dbeta);
void softmax(In x, double s, In y);
void softmax_backward(In dy, In y, double s, In dx);
void biased_softmax(In x, double s, In bias, In mask, In y);

// loss.cpp
void soft_cross_entropy(In z, In p, In loss, In dz);
void smooth_targets(In labels, double s, In p);
void count_top(In z, In labels, In counts);

// matmul.cpp
void linear(In x, In w, In scale, In bias, In y);
void linear_backward_input(In dy, In w, In scale, In dx);
void linear_backward_weight(In dy, In x, In scale, In dw);
void batched_matmul(const BatchedShape& shape, In a, In b, In y);

// linear_scale.cpp
void linear_scale(const LsqStep& x, In w, In w_alpha, In bias, In scale, In shifted);

// tokens.cpp
void normalize_pixels(In x, const float* mean, const float* deviation, In y);
void patchify(In x, int64_t patch, In y);
void unpatchify(In y, int64_t patch, In x);
void prepend_token(In token, In x, In y);
void drop_first_token(In x, In y);
void select_token(In x, int64_t index, In y);
void scatter_token(In x, int64_t index, In y);

// batch_norm.cpp
void column_moments(In x, In mean, In variance);
void track_moments(In mean, In variance, int64_t rows, double momentum, In running_mean, In running_variance,
                   In count);
void batch_norm_relu(In x, In mean, In variance, In gamma, In beta, double eps, In y);
void batch_norm_relu_backward(In dy, In x, In mean, In variance, In gamma, In beta, double eps, bool batch,
                              In dx, In dgamma, In dbeta);

// order.cpp
void gather_tokens(In x, In index, In y);
void random_permutation(In key, int64_t salt, In index, In inverse);
void mean_tokens(In x, In y);
void spread_token(In x, In y);
void transpose(In x, In y);
void table_bias(In t, In index, In y);
void table_bias_backward(In dy, In index, In dt);

// weighted_sum.cpp
void weighted_sum(In x, In f, In keep, In k1, In k2, In y);
void weighted_sum_backward(In dy, In x, In f, In keep, In k1, In k2, In dx, In df, In dk1, In dk2);

// convolution.cpp
void unfold(In x, const Convolution& shape, In u);
void fold(In u, const Convolution& shape, In x);
void grouped_convolution(In x, const Convolution& shape, In w, In scale, In bias, In y);
void grouped_convolution_backward_input(In dy, const Convolution& shape, In w, In scale, In dx);
void grouped_convolution_backward_weight(In dy, const Convolution& shape, In x, In scale, In dw);

// lsq.cpp
void lsq(In x, In alpha, In beta, CodeRange range, In y);
void lsq_backward(In dy, In x, In alpha, In beta, CodeRange range, In g, In dx, In dalpha, In dbeta);
void lsq_codes(In x, In alpha, In beta, CodeRange range, In q);
void raise_steps(const std::vector<Tensor>& alphas);
void lsq_weight_grad_scale(In w, CodeRange range, In g);
void lsq_fit_sums(In x, double a, double o, CodeRange range, In sums);

// binary.cpp
void binary_scale(In x, In s);
void binary(In x, In s, In y);
void binary_backward(In dy, In x, In dx);

// bin_regularizer.cpp
void bin_regularizer(In w, In alpha, CodeRange range, In loss, In stats);
void bin_regularizer_backward(In dy, In w, In alpha, CodeRange range, In stats, In g, In dw, In dalpha);

// weights.cpp
void quantize_weights(const std::vector<WeightItem>& items);
void quantize_weights_backward(const std::vector<WeightGradientItem>& items, In dreg);

// training.cpp
void stochastic_depth(In key, In rates, In keep);
void clip_gradients(const std::vector<AdamwItem>& items, double most, In schedule);
void halt_unless_finite(In x, In halt);

// adamw.cpp
void adamw(const std::vector<AdamwItem>& items, const AdamwRates& rates, In schedule, In halt);

}  // namespace vvtq::engine::cpu
