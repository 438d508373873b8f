#include "apps/training/telling_shapes.h"

#include <algorithm>

namespace vvtq::apps {
namespace {

int64_t hidden_of(int64_t width, double ratio) {
    return static_cast<int64_t>(static_cast<double>(width) * ratio);
}

/// "<stem>.<i>.mlp.fc1.weight" of the blocks 0, step, 2 step, ... below `end`, and no block `end`.
void add_blocks(TellingShapes& shapes, const std::string& stem, int64_t end, int64_t step, int64_t width,
                double ratio) {
    const auto name = [&](int64_t i) { return stem + "." + std::to_string(i) + ".mlp.fc1.weight"; };
    for (int64_t i = 0; i < end; i += step) {
        shapes.present.emplace_back(name(i), std::vector<int64_t>{hidden_of(width, ratio), width});
    }
    shapes.absent.push_back(name(end));
}

}  // namespace

TellingShapes telling_shapes(const nn::ModelConfig& c) {
    TellingShapes shapes;
    const int64_t side = c.img_size / c.patch_size;
    const auto stages = static_cast<int64_t>(c.depths.size());
    const int64_t last = stages == 0 ? c.embed_dim : c.embed_dim << (stages - 1);
    shapes.present = {{"head.weight", {c.num_classes, last}}};
    if (c.family == "sret") {
        shapes.present.push_back({"pos_embed", {1, c.embed_dim, side, side}});
        shapes.present.push_back({"patch_embed.conv1.weight", {c.embed_dim / 2, c.in_chans, 3, 3}});
    } else {
        shapes.present.push_back(
            {"patch_embed.proj.weight", {c.embed_dim, c.in_chans, c.patch_size, c.patch_size}});
    }
    if (c.family == "deit") {
        shapes.present.push_back({"pos_embed", {1, side * side + 1, c.embed_dim}});
        add_blocks(shapes, "blocks", c.depth, 1, c.embed_dim, c.mlp_ratio);
    }
    for (int64_t stage = 0; stage < stages; ++stage) {
        const auto at = static_cast<size_t>(stage);
        const std::string number = std::to_string(stage);
        const int64_t width = c.embed_dim << stage;
        if (c.family == "sret") {
            add_blocks(shapes, "transformers." + number + ".blocks", 2 * c.depths[at], 2, width, c.mlp_ratio);
            continue;
        }
        add_blocks(shapes, "layers." + number + ".blocks", c.depths[at], 1, width, c.mlp_ratio);
        const int64_t window = std::min(c.window_size, side >> stage);
        shapes.present.push_back(
            {"layers." + number + ".blocks.0.attn.relative_position_bias_table",
             {(2 * window - 1) * (2 * window - 1), at < c.heads.size() ? c.heads[at] : 0}});
    }
    return shapes;
}

}  // namespace vvtq::apps
