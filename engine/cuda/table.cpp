// table: CUDA's kernel table.
#include "engine/cuda/backend.h"
#include "engine/cuda/families.h"
#include "engine/cuda/runtime.h"

namespace vvtq::engine::cuda {

const Kernels& kernels() {
    gpu();
    static const Kernels table{
        .fill = fill,
        .copy = copy,
        .cast = cast,
        .add = add,
        .accumulate_add = accumulate_add,
        .scale = scale,
        .scale_by = scale_by,
        .add_broadcast = add_broadcast,
        .residual = residual,
        .scale_samples = scale_samples,
        .take_columns = take_columns,
        .put_columns = put_columns,
        .accumulate_outer = accumulate_outer,
        .gelu = gelu,
        .gelu_backward = gelu_backward,
        .sum_rows = sum_rows,
        .sum = sum,
        .sum_abs = sum_abs,
        .sum_squares = sum_squares,
        .count_not_finite = count_not_finite,
        .layer_norm = layer_norm,
        .layer_norm_apply = layer_norm_apply,
        .layer_norm_backward = layer_norm_backward,
        .softmax = softmax,
        .softmax_backward = softmax_backward,
        .soft_cross_entropy = soft_cross_entropy,
        .smooth_targets = smooth_targets,
        .count_top = count_top,
        .linear = linear,
        .linear_backward_input = linear_backward_input,
        .linear_backward_weight = linear_backward_weight,
        .linear_scale = linear_scale,
        .batched_matmul = batched_matmul,
        .normalize_pixels = normalize_pixels,
        .patchify = patchify,
        .unpatchify = unpatchify,
        .prepend_token = prepend_token,
        .drop_first_token = drop_first_token,
        .select_token = select_token,
        .scatter_token = scatter_token,
        .lsq = lsq,
        .lsq_backward = lsq_backward,
        .lsq_codes = lsq_codes,
        .raise_steps = raise_steps,
        .lsq_weight_grad_scale = lsq_weight_grad_scale,
        .lsq_fit_sums = lsq_fit_sums,
        .binary_scale = binary_scale,
        .binary = binary,
        .binary_backward = binary_backward,
        .bin_regularizer = bin_regularizer,
        .bin_regularizer_backward = bin_regularizer_backward,
        .residual_norm = residual_norm,
        .residual_norm_backward = residual_norm_backward,
        .gelu_quantize = gelu_quantize,
        .gelu_quantize_backward = gelu_quantize_backward,
        .attention = attention,
        .attention_backward = attention_backward,
        .quantize_weights = quantize_weights,
        .quantize_weights_backward = quantize_weights_backward,
        .stochastic_depth = stochastic_depth,
        .clip_gradients = clip_gradients,
        .halt_unless_finite = halt_unless_finite,
        .adamw = adamw,
    };
    return table;
}

}  // namespace vvtq::engine::cuda
