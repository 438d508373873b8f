// A family of models that this file alone defines: a two-stage MLP-Mixer (Tolstikhin et al. 2021) with a size
// of its own. It is built from flags, trained, saved, and goes on to the same bits.
#include <numeric>

#include "apps/commands/model_setup.h"
#include "apps/training/trainer.h"
#include "autograd/ops.h"
#include "nn/model.h"
#include "nn/swin.h"
#include "nn/token_order.h"
#include "quant/calibrate.h"
#include "tests/catch.h"
#include "tests/command_support.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::DType;
using nn::ModelConfig;
using nn::Variable;

namespace {

constexpr double kNormEps = 1e-6;

int64_t token_dim(const ModelConfig& config) { return std::get<int64_t>(config.own.at("token_dim")); }

/// Rows and columns of a sample change places: (B, rows, columns) -> (B, columns, rows).
class Transpose {
  public:
    Transpose(int64_t rows, int64_t columns) : rows_(rows), columns_(columns) {
        std::vector<int64_t> index;
        for (int64_t i = 0; i < rows * columns; ++i) index.push_back(i % rows * columns + i / rows);
        order_ = nn::order_of(index);
    }
    Variable operator()(const Variable& x) const {
        const Variable flat = autograd::reshape(x, {x.shape()[0], rows_ * columns_, 1});
        return autograd::reshape(autograd::gather_tokens(flat, order_), {x.shape()[0], columns_, rows_});
    }

  private:
    int64_t rows_, columns_;
    autograd::TokenOrder order_;
};

/// x += mlp over tokens of norm1 x; x += mlp over channels of norm2 x.
class MixerBlock : public nn::Module {
  public:
    MixerBlock(int64_t tokens, int64_t width, int64_t token_hidden, int64_t hidden, DType dtype)
        : norm1_(width, kNormEps, dtype),
          tokens_(tokens, token_hidden, dtype),
          norm2_(width, kNormEps, dtype),
          channels_(width, hidden, dtype),
          there_(tokens, width),
          back_(width, tokens) {
        add_module("norm1", norm1_);
        add_module("token_mixing", tokens_);
        add_module("norm2", norm2_);
        add_module("channel_mixing", channels_);
    }
    Variable forward(const Variable& x) {
        const autograd::Scope scope(name());
        const Variable mixed = tokens_.forward(tokens_.quant1().quantized(there_(norm1_.forward(x))));
        const Variable y = autograd::add(x, back_(mixed));
        return autograd::add(y, channels_.forward(channels_.quant1().quantized(norm2_.forward(y))));
    }

  private:
    nn::LayerNorm norm1_;
    nn::Mlp tokens_;
    nn::LayerNorm norm2_;
    nn::Mlp channels_;
    Transpose there_, back_;
};

class Mixer : public nn::Model {
  public:
    Mixer(const ModelConfig& config, DType dtype)
        : Model(config),
          patch_embed_(config.in_chans, config.patch_size, config.embed_dim, dtype),
          merging_(config.img_size / config.patch_size, config.embed_dim, dtype),
          norm_(2 * config.embed_dim, kNormEps, dtype),
          head_({config.num_classes, 2 * config.embed_dim}, dtype, nn::Bits::always_8) {
        add_module("patch_embed", patch_embed_);
        add_module("merging", merging_);
        for (int64_t stage = 0; stage < 2; ++stage) {
            const int64_t side = config.img_size / config.patch_size >> stage,
                          width = config.embed_dim << stage;
            const auto hidden = static_cast<int64_t>(config.mlp_ratio * static_cast<double>(width));
            for (int64_t i = 0; i < config.depths.at(static_cast<size_t>(stage)); ++i) {
                auto& blocks = blocks_[stage];
                blocks.push_back(
                    std::make_unique<MixerBlock>(side * side, width, token_dim(config), hidden, dtype));
                add_module("stages." + std::to_string(stage) + "." + std::to_string(i), *blocks.back());
            }
        }
        add_module("norm", norm_);
        add_module("quant", quant_);
        add_module("head", head_);
    }

  private:
    Variable compute(const nn::Tensor& pictures, const nn::Draws&) override {
        Variable x = patch_embed_.forward(Variable(pictures));
        for (const auto& block : blocks_[0]) x = block->forward(x);
        x = merging_.forward(nn::Residual{x, {}, {}});
        for (const auto& block : blocks_[1]) x = block->forward(x);
        return head_.forward(quant_.quantized(autograd::mean_tokens(norm_.forward(x))));
    }

    nn::PatchEmbed patch_embed_;
    nn::PatchMerging merging_;
    std::vector<std::unique_ptr<MixerBlock>> blocks_[2];
    nn::LayerNorm norm_;
    nn::QuantizerSlot quant_{nn::Values::activation, nn::Bits::always_8};
    nn::Linear head_;
};

nn::Family mixer_family() {
    ModelConfig preset;
    preset.name = "mixer_test_quant";
    preset.img_size = 28;
    preset.patch_size = 7;
    preset.num_classes = 10;
    preset.embed_dim = 16;
    preset.depths = {2, 1};
    preset.mlp_ratio = 2.0;
    preset.own["token_dim"] = int64_t{24};
    std::vector<nn::Field> fields = nn::common_fields();
    fields.push_back({"depths", &ModelConfig::depths, {1, 100}, "blocks of each stage"});
    fields.push_back({"token_dim", nn::Field::own, {1, 4096}, "hidden width of token mixing"});
    return {"mixer", {preset}, fields, [](const ModelConfig& config, DType dtype) {
                if (config.depths.size() != 2) engine::input_error("`depths`: a mixer has 2 stages");
                if (config.img_size % (2 * config.patch_size) != 0) {
                    engine::input_error("`img_size` ", config.img_size, ": choose a multiple of ",
                                        2 * config.patch_size);
                }
                return std::make_unique<Mixer>(config, dtype);
            }};
}

const bool registered = (nn::register_family(mixer_family()), true);

const apps::Compute kCpu{engine::Device::cpu, DType::f32, DType::f32};

/// Options of `vvtq train` for a small mixer.
std::unique_ptr<apps::Options> parsed(const std::vector<std::string>& more = {}) {
    std::vector<std::string> words = {"train", "--model", "mixer_test", "--token-dim", "20",      "--depths",
                                      "1",     "1",       "--wbits",    "4",           "--abits", "4"};
    words.insert(words.end(), more.begin(), more.end());
    return apps::parse_options(words);
}

/// A run of two epochs of 4 steps, as the library is used without any flags but the model's.
struct Run {
    std::string folder;
    apps::TrainingData data;
    apps::TrainingOptions options;
    apps::RunLog log;

    Run(const std::string& pictures, const std::string& to) : folder(to) {
        data.train = data::open_dataset("fashion-mnist", pictures, data::Split::train);
        data.evaluation = data::open_dataset("fashion-mnist", pictures, data::Split::evaluation);
        options.schedule = {.lr = 1e-3, .epochs = 2};
        options.training.mode = data::LoaderMode::training;
        options.training.batch_size = options.evaluation.batch_size = 8;
        options.training.image_size = options.evaluation.image_size = 28;
        options.training.seed = 3;
        options.evaluation.shorter_side = 0;
        options.regularize = true;
    }
    std::string checkpoint() const { return folder + "/checkpoint.safetensors"; }

    /// Trains from the start, or on from the run's own checkpoint.
    apps::Outcome train(bool resume) {
        const auto flags = parsed();
        std::optional<apps::Checkpoint> saved;
        if (resume) saved.emplace(checkpoint(), "--resume");
        const apps::Checkpoint* source = saved ? &*saved : nullptr;
        const auto model = apps::make_model(apps::resolve_config(*flags, source, 10), kCpu, 7);
        apps::attach_quantizers(*model, flags->quantizer);
        apps::CheckpointInfo info;
        if (saved) {
            saved->load_parameters(*model);
            info = *saved->info();
        } else {
            quant::calibrate_weights(*model);
            quant::calibrate_activations(*model, apps::calibration_pictures(data, options.training, kCpu));
            info.command = "train";
            info.model = model->config();
            info.quantized = true;
        }
        apps::RunFolder files(folder, 1);
        return apps::Trainer(options, data, kCpu, *model, info, source, files, log).run();
    }
};

}  // namespace

TEST_CASE("a family of a test file is built from flags and refuses what does not fit") {
    REQUIRE(registered);
    const ModelConfig config = apps::resolve_config(*parsed(), nullptr, 10);
    CHECK(token_dim(config) == 20);
    CHECK(config.depths == std::vector<int64_t>{1, 1});
    const auto model = nn::make_model(config, DType::f32, 1);
    for (const nn::NamedParameter& p : model->parameters()) {
        if (p.name == "stages.0.0.token_mixing.fc1.weight") CHECK(p.parameter.shape().str() == "(20, 16)");
    }
    CHECK(apps::parse_options({"train", "--help"})->help.find("--token-dim") != std::string::npos);
    const auto refused = [](const std::string& part, const std::vector<std::string>& more) {
        const auto flags = parsed(more);
        return refuses(part, [&] {
            flags->with_flags_in_errors(
                [&] { nn::make_shapes(apps::resolve_config(*flags, nullptr, 10), DType::f32); });
        });
    };
    CHECK(refused("--token-dim 5000: give 1 to 4096", {"--token-dim", "5000"}));
    CHECK(refused("--depths: a mixer has 2 stages", {"--depths", "1"}));
    CHECK(refused("--window-size: mixer_test_quant has no such size", {"--window-size", "7"}));
    CHECK(refused("--token-dim: swin_tiny_patch4_window7_224_quant has no such size",
                  {"--model", "swin_tiny_patch4_window7_224"}));
    CHECK(refuses("--token-dim", [] { parsed({"--token-dim", "-1"}); }));
}

TEST_CASE("sizes are written as people write them") {
    CHECK(nn::size_text(3.6) == "3.6");
    CHECK(nn::size_text(4.0) == "4");
    CHECK(nn::size_text(std::vector<int64_t>{3, 6, 12}) == "3 6 12");
    CHECK(nn::Bounds{1, 1'000'000}.text() == "1 to 1000000");
    CHECK(nn::Bounds{0, 64, true}.text() == "above 0 and at most 64");
}

TEST_CASE("a family of a test file is trained, saved, and goes on to the same bits") {
    const Scratch scratch;
    write_idx_dataset(scratch / "data", 32, 16);
    Run whole(scratch / "data", scratch / "whole"), parts(scratch / "data", scratch / "parts");
    CHECK(whole.train(false) == apps::Outcome::finished);
    bool resume = false;
    for (const int64_t steps : {3, 6}) {  // within the first epoch, and within the second
        parts.options.max_steps = steps;
        CHECK(parts.train(resume) == apps::Outcome::step_limit);
        resume = true;
    }
    const apps::Checkpoint saved(parts.checkpoint(), "--resume");
    CHECK(saved.quantized(*nn::make_shapes(saved.info()->model, engine::DType::f32)));
    CHECK(token_dim(saved.info()->model) == 20);
    const auto other = parsed({"--token-dim", "21"});
    CHECK(refuses("--token-dim 21 (there 20)", [&] { apps::resolve_config(*other, &saved, 10); }));
    CHECK(refuses("stages.0.0.token_mixing.fc1.weight (20, 16) instead of (21, 16)",
                  [&] { apps::resolve_config(*other, &saved, 10); }));
    CHECK(bytes_of(parts.checkpoint()) != bytes_of(whole.checkpoint()));
    parts.options.max_steps = 0;
    CHECK(parts.train(true) == apps::Outcome::finished);
    CHECK(bytes_of(parts.checkpoint()) == bytes_of(whole.checkpoint()));
}
