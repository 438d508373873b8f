// table: the CPU's kernel table.
#include "engine/cpu/backend.h"
#include "engine/cpu/families.h"

namespace vvtq::engine::cpu {

const Kernels& kernels() {
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
        .gelu = gelu,
        .gelu_backward = gelu_backward,
        .sum_rows = sum_rows,
        .sum = sum,
        .sum_abs = sum_abs,
        .sum_squares = sum_squares,
        .count_not_finite = count_not_finite,
        .layer_norm = layer_norm,
        .layer_norm_backward = layer_norm_backward,
        .softmax = softmax,
        .softmax_backward = softmax_backward,
        .soft_cross_entropy = soft_cross_entropy,
        .linear = linear,
        .linear_backward_input = linear_backward_input,
        .linear_backward_weight = linear_backward_weight,
        .batched_matmul = batched_matmul,
        .patchify = patchify,
        .unpatchify = unpatchify,
        .prepend_token = prepend_token,
        .drop_first_token = drop_first_token,
        .select_token = select_token,
        .scatter_token = scatter_token,
        .lsq = lsq,
        .lsq_backward = lsq_backward,
        .lsq_codes = lsq_codes,
        .lsq_weight_grad_scale = lsq_weight_grad_scale,
        .lsq_fit_sums = lsq_fit_sums,
        .binary_scale = binary_scale,
        .binary = binary,
        .binary_backward = binary_backward,
        .bin_regularizer = bin_regularizer,
        .bin_regularizer_backward = bin_regularizer_backward,
        .adamw = adamw,
    };
    return table;
}

}  // namespace vvtq::engine::cpu
