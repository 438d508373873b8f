#include "nn/model_sizes.h"

namespace vvtq::nn {

int64_t hidden_width(int64_t width, double ratio) {
    return static_cast<int64_t>(static_cast<double>(width) * ratio);
}

void check_pictures(const ModelConfig& c) {
    if (c.img_size < 1 || c.img_size > 4096) {
        engine::input_error("--img-size ", c.img_size, ": give a picture size from 1 to 4096");
    }
    if (c.in_chans < 1 || c.in_chans > 1024)
        engine::input_error("a picture cannot have ", c.in_chans, " channels");
    if (c.num_classes < 1 || c.num_classes > 1'000'000) {
        engine::input_error("--num_classes ", c.num_classes, ": give at least 1 class and at most 1000000");
    }
    if (c.embed_dim < 1 || c.embed_dim > 16384) {
        engine::input_error("--embed-dim ", c.embed_dim, ": give a width from 1 to 16384");
    }
    if (!(c.mlp_ratio > 0 && c.mlp_ratio <= 64) || hidden_width(c.embed_dim, c.mlp_ratio) < 1) {
        engine::input_error("MLP ratio ", c.mlp_ratio, ": give a ratio above 0, at most 64");
    }
    if (!(c.drop_path >= 0 && c.drop_path < 1)) {
        engine::input_error("--drop-path ", c.drop_path, ": give a rate from 0 to below 1");
    }
}

void check_stages(const ModelConfig& c) {
    if (c.depths.empty() || c.depths.size() > 8) {
        engine::input_error("--depths: ", c.depths.size(), " stages; give 1 to 8");
    }
    if (c.heads.size() != c.depths.size()) {
        engine::input_error("--num-heads has ", c.heads.size(), " numbers and --depths ", c.depths.size(),
                            ": give one for each stage");
    }
    for (size_t stage = 0; stage < c.depths.size(); ++stage) {
        const int64_t width = c.embed_dim << stage, heads = c.heads[stage];
        if (c.depths[stage] < 1 || c.depths[stage] > 1000) {
            engine::input_error("--depths ", c.depths[stage], " in stage ", stage + 1,
                                ": give 1 to 1000 blocks");
        }
        if (heads < 1 || width % heads != 0) {
            engine::input_error("--num-heads ", heads, " does not divide the width ", width, " of stage ",
                                stage + 1, ": choose a divisor");
        }
    }
}

void check_shape(const Tensor& pictures, const ModelConfig& c) {
    const engine::Shape& shape = pictures.shape();
    VVTQ_CHECK(
        shape.rank() == 4 && shape[1] == c.in_chans && shape[2] == c.img_size && shape[3] == c.img_size,
        "pictures ", shape.str(), ", model of (B, ", c.in_chans, ", ", c.img_size, ", ", c.img_size, ")");
}

std::vector<double> rising_rates(double rate, int64_t blocks) {
    std::vector<double> rates;
    for (int64_t i = 0; i < blocks; ++i) {
        const double share = blocks > 1 ? static_cast<double>(i) / static_cast<double>(blocks - 1) : 0.0;
        rates.insert(rates.end(), 2, rate * share);
    }
    return rates;
}

}  // namespace vvtq::nn
