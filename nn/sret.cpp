#include "nn/sret.h"

#include <numeric>

#include "autograd/ops.h"
#include "engine/kernels.h"
#include "nn/model_sizes.h"
#include "nn/token_order.h"

namespace vvtq::nn {

namespace {

constexpr double kNormEps = 1e-6;
// groups of the first and the second use of a block, by stage; later stages have one
constexpr int64_t kSlices[][2] = {{8, 2}, {4, 1}, {1, 1}};

struct Slices {
    int64_t of_use[2];
};
Slices slices_of(size_t stage) {
    if (stage >= std::size(kSlices)) return {{1, 1}};
    return {{kSlices[stage][0], kSlices[stage][1]}};
}

int64_t side_of(const ModelConfig& config, size_t stage) {
    int64_t side = config.img_size / config.patch_size;
    for (; stage > 0; --stage) side = (side - 1) / 2 + 1;
    return side;
}

int64_t width_of(const ModelConfig& config, size_t stage) { return config.embed_dim << stage; }

int64_t last_width(const ModelConfig& config) { return width_of(config, config.depths.size() - 1); }

/// The config itself, so that it can be checked before the first member is built.
const ModelConfig& checked(const ModelConfig& c) {
    if (c.patch_size != 1 && c.patch_size != 2 && c.patch_size != 4 && c.patch_size != 8) {
        engine::input_error(
            "`patch_size` ", c.patch_size,
            ": the stem's three convolutions halve a picture 0 to 3 times, give 1, 2, 4 or 8");
    }
    check_common(c);
    check_stages(c);
    if (c.embed_dim % 2 != 0) {
        engine::input_error("`embed_dim` ", c.embed_dim, ": the stem needs an even width");
    }
    if (hidden_width(c.embed_dim, c.np_ratio) < 1) {
        engine::input_error("`np_ratio` ", c.np_ratio, " leaves no hidden values: give a larger ratio");
    }
    for (size_t stage = 0; stage < c.depths.size(); ++stage) {
        if (c.depths[stage] % 2 != 0) {
            engine::input_error("`depths` ", c.depths[stage], " in stage ", stage + 1,
                                ": every block is used twice, give an even number");
        }
        const int64_t side = side_of(c, stage);
        for (const int64_t groups : slices_of(stage).of_use) {
            if (side * side % groups == 0) continue;
            engine::input_error("`img_size` ", c.img_size, " at `patch_size` ", c.patch_size, " gives ",
                                side * side, " tokens in stage ", stage + 1,
                                ", which attention cannot cut into ", groups, " slices: choose another size");
        }
    }
    return c;
}

/// rate (depths of the stages before + j) / (all depths) for distinct block j, both branches of both uses.
std::vector<double> drop_rates(const ModelConfig& config) {
    const auto total =
        static_cast<double>(std::accumulate(config.depths.begin(), config.depths.end(), int64_t{0}));
    std::vector<double> rates;
    int64_t before = 0;
    for (const int64_t depth : config.depths) {
        for (int64_t j = 0; j < depth / 2; ++j) {
            rates.insert(rates.end(), 4, config.drop_path * static_cast<double>(before + j) / total);
        }
        before += depth;
    }
    return rates;
}

ModelConfig preset(const std::string& name, int64_t width, std::vector<int64_t> heads, double mlp_ratio,
                   double np_ratio) {
    ModelConfig config;
    config.name = name;
    config.patch_size = 8;
    config.embed_dim = width;
    config.depths = {4, 10, 6};
    config.heads = std::move(heads);
    config.mlp_ratio = mlp_ratio;
    config.np_ratio = np_ratio;
    return config;
}

}  // namespace

Family sret_family() {
    std::vector<Field> fields = stage_fields();
    fields.push_back({"np_ratio", &ModelConfig::np_ratio, {0, 64, true}});
    fields.push_back(
        {"window_size", &ModelConfig::window_size, {1, 1'000'000}});  // in the files, but not used
    return {
        "sret",
        {preset("SReT_T_quant", 64, {2, 4, 8}, 3.6, 1.0), preset("SReT_LT_quant", 64, {2, 4, 8}, 4.0, 1.0),
         preset("SReT_S_quant", 126, {3, 6, 12}, 3.0, 2.0)},
        fields,
        [](const ModelConfig& config, engine::DType dtype) { return std::make_unique<Sret>(config, dtype); },
        [](const std::string& parameter) {
            constexpr PositionGrid kGrid{.rows = false, .antialias = true};
            return parameter == "pos_embed" ? std::optional(kGrid) : std::nullopt;
        }};
}

SretBlock::SretBlock(int64_t width, int64_t heads, int64_t hidden, engine::DType dtype)
    : norm1_(width, kNormEps, dtype),
      attn_(width, heads, dtype),
      norm2_(width, kNormEps, dtype),
      mlp_(width, hidden, dtype),
      coefficients_{Coefficient(dtype), Coefficient(dtype), Coefficient(dtype), Coefficient(dtype)} {
    add_module("norm1", norm1_);
    add_module("attn", attn_);
    add_module("norm2", norm2_);
    add_module("mlp", mlp_);
    for (size_t i = 0; i < 4; ++i) add_module("coefficient" + std::to_string(i + 1), coefficients_[i]);
}

Variable SretBlock::forward(const Variable& x, const Tensor (&keep)[2], const TokenGroups& groups) {
    const autograd::Scope scope(name());
    const auto first = norm1_.forward({x, {}, {}}, attn_, attn_.quant_input());
    const Variable middle = autograd::weighted_sum(first.y, attn_.forward(first.n, groups), keep[0],
                                                   coefficients_[0].value(), coefficients_[1].value());
    const auto second = norm2_.forward({middle, {}, {}}, mlp_, mlp_.quant1());
    return autograd::weighted_sum(second.y, mlp_.forward(second.n), keep[1], coefficients_[2].value(),
                                  coefficients_[3].value());
}

SretMlpLayer::SretMlpLayer(int64_t width, int64_t hidden, engine::DType dtype)
    : norm1_(width, kNormEps, dtype),
      mlp_(width, hidden, dtype),
      coefficients_{Coefficient(dtype), Coefficient(dtype)} {
    add_module("norm1", norm1_);
    add_module("mlp", mlp_);
    for (size_t i = 0; i < 2; ++i) add_module("coefficient" + std::to_string(i + 1), coefficients_[i]);
}

Variable SretMlpLayer::forward(const Variable& x) {
    const autograd::Scope scope(name());
    const auto normed = norm1_.forward({x, {}, {}}, mlp_, mlp_.quant1());
    return autograd::weighted_sum(normed.y, mlp_.forward(normed.n), {}, coefficients_[0].value(),
                                  coefficients_[1].value());
}

SretStem::SretStem(const ModelConfig& config, engine::DType dtype)
    : img_size_(config.img_size), in_chans_(config.in_chans), halvings_(0) {
    while (int64_t{1} << halvings_ < config.patch_size) ++halvings_;
    widths_ = {config.embed_dim / 2, config.embed_dim, config.embed_dim};
    int64_t in = in_chans_;
    for (size_t i = 0; i < widths_.size(); ++i) {
        const std::string number = std::to_string(i + 1);
        layers_.push_back(std::make_unique<Layer>(in, widths_[i], dtype));
        add_module("quant" + number, layers_[i]->quant);
        add_module("conv" + number, layers_[i]->conv);
        add_module("bn" + number, layers_[i]->bn);
        in = widths_[i];
    }
}

Variable SretStem::forward(const Variable& pictures) {
    const autograd::Scope scope(name());
    Variable x = pictures;
    engine::Convolution shape{in_chans_, img_size_, img_size_, 1, false};
    for (size_t i = 0; i < layers_.size(); ++i) {
        shape.stride = static_cast<int64_t>(i) < halvings_ ? 2 : 1;
        x = layers_[i]->bn.forward(layers_[i]->conv.forward(layers_[i]->quant.quantized(x), shape));
        shape = {widths_[i], shape.out_height(), shape.out_width(), 1, true};
    }
    return x;
}

SretStage::SretStage(const Sizes& sizes, engine::DType dtype) : slices_{sizes.slices[0], sizes.slices[1]} {
    for (int64_t use = 0; use < sizes.depth; ++use) {
        if (use % 2 == 0) {
            blocks_.push_back(std::make_unique<SretBlock>(sizes.width, sizes.heads, sizes.hidden, dtype));
        }
        layers_.push_back(std::make_unique<SretMlpLayer>(sizes.width, sizes.np_hidden, dtype));
        add_module("blocks." + std::to_string(2 * use), *blocks_.back());
        add_module("blocks." + std::to_string(2 * use + 1), *layers_.back());
    }
}

Variable SretStage::forward(Variable x, const StochasticDepth& drops, const Orders& order, size_t first) {
    const autograd::Scope scope(name());
    for (size_t use = 0; use < layers_.size(); ++use) {
        const size_t branch = 2 * (first + use);
        const Tensor keep[2] = {drops.keep(branch), drops.keep(branch + 1)};
        TokenGroups groups;
        groups.count = slices_[use % 2];
        if (use % 2 == 1 && groups.count > 1) groups.order = order(first + use, x.shape()[1]);
        x = layers_[use]->forward(blocks_[use / 2]->forward(x, keep, groups));
    }
    return x;
}

SretPool::SretPool(int64_t width, engine::DType dtype) : conv_(width, dtype) {
    add_module("quant", quant_);
    add_module("conv", conv_);
}

Variable SretPool::forward(const Variable& x, int64_t side) {
    const autograd::Scope scope(name());
    return conv_.forward(quant_.quantized(x), {x.shape()[2], side, side, 2, true});
}

Sret::Sret(const ModelConfig& config, engine::DType dtype)
    : Model(checked(config)),
      pos_embed_(add_parameter(
          "pos_embed", Tensor::zeros({1, config.embed_dim, side_of(config, 0), side_of(config, 0)}, dtype))),
      patch_embed_(config, dtype),
      norm_(last_width(config), kNormEps, dtype),
      head_({config.num_classes, last_width(config)}, dtype, Bits::always_8),
      stochastic_depth_(drop_rates(config)),
      fixed_key_(random_key(0)) {
    add_module("patch_embed", patch_embed_);
    for (size_t stage = 0; stage < config.depths.size(); ++stage) {
        const int64_t width = width_of(config, stage);
        const Slices slices = slices_of(stage);
        transformers_.push_back(
            std::make_unique<SretStage>(SretStage::Sizes{width,
                                                         config.heads[stage],
                                                         hidden_width(width, config.mlp_ratio),
                                                         hidden_width(width, config.np_ratio),
                                                         config.depths[stage],
                                                         {slices.of_use[0], slices.of_use[1]}},
                                        dtype));
        add_module("transformers." + std::to_string(stage), *transformers_.back());
    }
    for (size_t stage = 0; stage + 1 < config.depths.size(); ++stage) {
        pools_.push_back(std::make_unique<SretPool>(width_of(config, stage), dtype));
        add_module("pools." + std::to_string(stage), *pools_.back());
    }
    add_module("norm", norm_);
    add_module("quant", quant_);
    add_module("head", head_);
}

autograd::TokenOrder Sret::order(size_t use, int64_t tokens, const Tensor& key) const {
    if (permutation_) return on_device(order_of(permutation_(tokens)), key.device());
    const Tensor index({tokens}, engine::DType::i32, key.device());
    const autograd::TokenOrder drawn{index, index.like()};
    engine::kernels(key.device())
        .random_permutation(key, static_cast<int64_t>(use), drawn.index, drawn.inverse);
    return drawn;
}

Variable Sret::compute(const Tensor& pictures, const Draws& draws) {
    check_shape(pictures, config());
    stochastic_depth_.draw(training(), pictures, draws);
    fixed_key_ = fixed_key_.to(pictures.device());
    const Tensor key = training() && draws.key.defined() ? draws.key : fixed_key_;
    const auto orders = [&](size_t use, int64_t tokens) { return order(use, tokens, key); };

    const engine::Shape& position = pos_embed_.shape();
    const Variable positions =
        autograd::transpose(autograd::reshape(pos_embed_, {position[1], position[2] * position[3]}));
    Variable x = autograd::add_broadcast(patch_embed_.forward(Variable(pictures)), positions);
    size_t first = 0;
    for (size_t stage = 0; stage < transformers_.size(); ++stage) {
        x = transformers_[stage]->forward(x, stochastic_depth_, orders, first);
        first += transformers_[stage]->depth();
        if (stage < pools_.size()) x = pools_[stage]->forward(x, side_of(config(), stage));
    }
    const Variable mean = autograd::mean_tokens(x);
    const Variable exact = autograd::cast(mean, engine::master_of(mean.value().dtype()));
    return head_.forward(norm_.forward({exact, {}, {}}, *this, quant_).n);
}

}  // namespace vvtq::nn
