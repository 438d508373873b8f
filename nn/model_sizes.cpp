#include "nn/model_sizes.h"

namespace vvtq::nn {

int64_t hidden_width(int64_t width, double ratio) {
    return static_cast<int64_t>(static_cast<double>(width) * ratio);
}

void check_common(const ModelConfig& c) {
    constexpr int64_t kMostPatches = 1 << 14;  // attention holds their square
    if (c.img_size % c.patch_size != 0) {
        engine::input_error("`patch_size` ", c.patch_size, " does not tile `img_size` ", c.img_size,
                            ": choose a divisor of the picture size");
    }
    const int64_t side = c.img_size / c.patch_size;
    if (side * side > kMostPatches) {
        engine::input_error("`img_size` ", c.img_size, " at `patch_size` ", c.patch_size, " gives more than ",
                            kMostPatches, " patches: use larger patches or smaller pictures");
    }
    if (hidden_width(c.embed_dim, c.mlp_ratio) < 1) {
        engine::input_error("`mlp_ratio` ", c.mlp_ratio, " leaves no hidden values: give a larger ratio");
    }
}

void check_stages(const ModelConfig& c) {
    if (c.heads.size() != c.depths.size()) {
        engine::input_error("`num_heads` has ", c.heads.size(), " numbers and `depths` ", c.depths.size(),
                            ": give one for each stage");
    }
    for (size_t stage = 0; stage < c.depths.size(); ++stage) {
        const int64_t width = c.embed_dim << stage;
        if (width % c.heads[stage] != 0) {
            engine::input_error("`num_heads` ", c.heads[stage], " does not divide the width ", width,
                                " of stage ", stage + 1, ": choose a divisor");
        }
    }
}

std::vector<Field> stage_fields() {
    std::vector<Field> fields = common_fields();
    fields.push_back({"depths", &ModelConfig::depths, {1, 1000}, "blocks of each stage (swin, SReT)"});
    fields.push_back(
        {"num_heads", &ModelConfig::heads, {1, 1'000'000}, "of each stage, or one number", "heads"});
    fields.push_back({"depth", &ModelConfig::depth, {1, 1'000'000}});
    fields.push_back({"num_heads", &ModelConfig::num_heads, {1, 1'000'000}});
    return fields;
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
