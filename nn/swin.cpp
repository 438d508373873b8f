#include "nn/swin.h"

#include <numeric>

#include "autograd/ops.h"
#include "nn/model_sizes.h"

namespace vvtq::nn {

namespace {

constexpr double kNormEps = 1e-5;

int64_t side_of(const ModelConfig& config, size_t stage) {
    return config.img_size / config.patch_size >> stage;
}

int64_t width_of(const ModelConfig& config, size_t stage) { return config.embed_dim << stage; }

/// The config itself, so that it can be checked before the first member is built.
const ModelConfig& checked(const ModelConfig& c) {
    check_common(c);
    check_stages(c);
    for (size_t stage = 0; stage < c.depths.size(); ++stage) {
        const int64_t side = side_of(c, stage);
        const bool last = stage + 1 == c.depths.size();
        if (side < 1 || (!last && side % 2 != 0)) {
            engine::input_error("`img_size` ", c.img_size, " at `patch_size` ", c.patch_size, " leaves ",
                                side, " tokens a side in stage ", stage + 1,
                                ", which cannot be merged in pairs: choose an `img_size` divisible by ",
                                c.patch_size << (c.depths.size() - 1));
        }
        if (side > c.window_size && side % c.window_size != 0) {
            engine::input_error("`window_size` ", c.window_size, " does not tile the ", side,
                                " tokens a side of stage ", stage + 1, " (`img_size` ", c.img_size,
                                ", `patch_size` ", c.patch_size, "): choose a divisor");
        }
    }
    return c;
}

ModelConfig preset(const std::string& name, int64_t width, std::vector<int64_t> depths,
                   std::vector<int64_t> heads) {
    ModelConfig config;
    config.name = name;
    config.patch_size = 4;
    config.embed_dim = width;
    config.depths = std::move(depths);
    config.heads = std::move(heads);
    return config;
}

}  // namespace

Family swin_family() {
    std::vector<Field> fields = stage_fields();
    fields.push_back({"window_size", &ModelConfig::window_size, {1, 64}, "of swin, in tokens"});
    fields.push_back({"np_ratio", &ModelConfig::np_ratio, {0, 64, true}});  // in the files, but not used
    return {
        "swin",
        {preset("swin_tiny_patch4_window7_224_quant", 96, {2, 2, 6, 2}, {3, 6, 12, 24}),
         preset("swin_small_patch4_window7_224_quant", 96, {2, 2, 18, 2}, {3, 6, 12, 24}),
         preset("swin_base_patch4_window7_224_quant", 128, {2, 2, 18, 2}, {4, 8, 16, 32})},
        fields,
        [](const ModelConfig& config, engine::DType dtype) { return std::make_unique<Swin>(config, dtype); },
        [](const std::string& parameter) {
            const bool bias = parameter.ends_with(".relative_position_bias_table");
            return bias ? std::optional(PositionGrid{}) : std::nullopt;
        }};
}

SwinPatchEmbed::SwinPatchEmbed(const ModelConfig& config, engine::DType dtype)
    : patch_size_(config.patch_size),
      proj_({config.embed_dim, config.in_chans, config.patch_size, config.patch_size}, dtype, Bits::always_8),
      norm_(config.embed_dim, kNormEps, dtype) {
    quant_.leave_idle();
    add_module("quant", quant_);
    add_module("proj", proj_);
    add_module("norm", norm_);
}

Variable SwinPatchEmbed::forward(const Variable& pictures) {
    const autograd::Scope scope(name());
    return norm_.forward(proj_.forward(autograd::patchify(pictures, patch_size_)));
}

PatchMerging::PatchMerging(int64_t side, int64_t width, engine::DType dtype)
    : norm_(4 * width, kNormEps, dtype),
      reduction_({2 * width, 4 * width}, dtype, Bits::always_8, false),
      order_(merge_order(side)) {
    add_module("reduction", reduction_);
    add_module("norm", norm_);
}

Variable PatchMerging::forward(const Residual& x) {
    const autograd::Scope scope(name());
    order_ = on_device(order_, x.x.value().device());
    const Variable sum = x.branch.defined() ? autograd::residual(x.x, x.branch, x.keep) : x.x;
    const engine::Shape& shape = sum.shape();
    const Variable merged =
        autograd::reshape(autograd::gather_tokens(sum, order_), {shape[0], shape[1] / 4, 4 * shape[2]});
    return reduction_.forward(norm_.forward(Residual{merged, {}, {}}).n);
}

SwinStage::SwinStage(const Sizes& sizes, engine::DType dtype) {
    const bool whole = sizes.side <= sizes.window;  // one window, which nothing can be shifted out of
    const int64_t window = whole ? sizes.side : sizes.window;
    if (!engine::ShapesOnly::active()) {  // they are no part of the state, and large
        windows_[0] = windows_of(sizes.side, window, 0, dtype);
        windows_[1] = whole ? windows_[0] : windows_of(sizes.side, window, window / 2, dtype);
    }
    const int64_t entries = (2 * window - 1) * (2 * window - 1);
    for (int64_t i = 0; i < sizes.depth; ++i) {
        blocks_.push_back(std::make_unique<Block>(
            BlockSizes{sizes.width, sizes.heads, sizes.hidden, kNormEps, entries}, dtype));
        add_module("blocks." + std::to_string(i), *blocks_.back());
    }
    if (!sizes.merges) return;
    downsample_.emplace(sizes.side, sizes.width, dtype);
    add_module("downsample", *downsample_);
}

Residual SwinStage::forward(Residual x, const StochasticDepth& drops, size_t first) {
    const autograd::Scope scope(name());
    for (TokenGroups& windows : windows_) windows = on_device(windows, x.x.value().device());
    for (size_t i = 0; i < blocks_.size(); ++i) {
        const Tensor keep[2] = {drops.keep(2 * (first + i)), drops.keep(2 * (first + i) + 1)};
        x = blocks_[i]->forward(x, keep, windows_[i % 2]);
    }
    if (downsample_) return {downsample_->forward(x), {}, {}};
    return x;
}

Swin::Swin(const ModelConfig& config, engine::DType dtype)
    : Model(checked(config)),
      patch_embed_(config, dtype),
      norm_(width_of(config, config.depths.size() - 1), kNormEps, dtype),
      head_({config.num_classes, width_of(config, config.depths.size() - 1)}, dtype, Bits::always_8),
      stochastic_depth_(rising_rates(
          config.drop_path, std::accumulate(config.depths.begin(), config.depths.end(), int64_t{0}))) {
    add_module("patch_embed", patch_embed_);
    for (size_t stage = 0; stage < config.depths.size(); ++stage) {
        const int64_t width = width_of(config, stage);
        layers_.push_back(std::make_unique<SwinStage>(
            SwinStage::Sizes{side_of(config, stage), width, config.heads[stage],
                             hidden_width(width, config.mlp_ratio), config.depths[stage], config.window_size,
                             stage + 1 < config.depths.size()},
            dtype));
        add_module("layers." + std::to_string(stage), *layers_.back());
    }
    add_module("norm", norm_);
    add_module("quant", quant_);
    add_module("head", head_);
}

Variable Swin::compute(const Tensor& pictures, const Draws& draws) {
    check_shape(pictures, config());
    stochastic_depth_.draw(training(), pictures, draws);
    Residual x{patch_embed_.forward(Variable(pictures)), {}, {}};
    size_t first = 0;
    for (const auto& stage : layers_) {
        x = stage->forward(x, stochastic_depth_, first);
        first += stage->depth();
    }
    const Variable mean = autograd::mean_tokens(norm_.forward(x).n.q);
    const Variable exact = autograd::cast(mean, engine::master_of(mean.value().dtype()));
    return head_.forward(quant_.quantized(exact));
}

}  // namespace vvtq::nn
