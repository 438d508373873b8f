// What a model takes from files that are not exactly its own.
#include "apps/training/state_load.h"

#include <cstring>

#include "apps/commands/model_setup.h"
#include "apps/options/options.h"
#include "apps/training/checkpoint.h"
#include "quant/attach.h"
#include "quant/calibrate.h"
#include "tests/catch.h"
#include "tests/golden_inputs.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::DType;

namespace {

nn::ModelConfig small_config() {
    nn::ModelConfig config = nn::model_config("deit_nano_patch4_28");
    config.img_size = 8;
    config.embed_dim = 8;
    config.depth = 1;
    return config;
}

std::unique_ptr<nn::Model> quantized_model(const nn::ModelConfig& config, uint64_t seed, int bits) {
    auto model = nn::make_model(config, DType::f64, seed);
    apps::attach_quantizers(*model, {bits, bits, false, false, false});
    return model;
}

nn::Tensor some_images(int64_t size) {
    return nn::Tensor::from(uniform01("images", static_cast<size_t>(2 * 3 * size * size)), {2, 3, size, size},
                            DType::f64);
}

std::vector<double> logits_of(nn::Model& model) {
    model.train(false);
    const autograd::NoGrad off_tape;
    return model.forward(some_images(model.config().img_size)).value().to_vector();
}

/// The state of a model in a file, with changes.
class File {
  public:
    explicit File(nn::Model& model) {
        for (const nn::NamedParameter& p : model.parameters()) put(p.name, p.parameter.value());
    }
    void put(const std::string& name, const nn::Tensor& tensor) { tensors_[name] = tensor; }
    void erase(const std::string& name) { REQUIRE(tensors_.erase(name) == 1); }
    /// As the published program has it: seven steps of which one counts, `nbits` and `init_state`.
    void publish(nn::Model& model) {
        for (const auto& [path, slot] : quant::slots(model)) {
            if (slot->get() == nullptr) continue;
            const int bits = slot->get()->describe().bits;
            for (const std::string& state : slot->get()->state_names()) {
                const double value = tensors_.at(path + "." + state).item();
                std::vector<double> steps(7, 1e9);
                steps[static_cast<size_t>(bits - 2)] = value;
                put(path + "." + state, nn::Tensor::from(steps, {7}, DType::f64));
            }
            put(path + ".nbits", nn::Tensor::full({1}, bits, DType::f64));
            put(path + ".init_state", nn::Tensor::full({1}, 1, DType::f64));
        }
    }
    std::string write(const std::string& path) const {
        std::vector<data::TensorBytes> bytes;
        for (const auto& [name, t] : tensors_) {
            bytes.push_back(
                {name, "F64", t.shape().vec(), {static_cast<const uint8_t*>(t.raw()), t.bytes()}});
        }
        data::write_safetensors(path, bytes, {});
        return path;
    }

  private:
    std::map<std::string, nn::Tensor> tensors_;
};

std::unique_ptr<nn::Model> started_model(int bits) {
    auto model = quantized_model(small_config(), 3, bits);
    quant::calibrate_weights(*model);
    quant::calibrate_activations(*model, some_images(8));
    return model;
}

}  // namespace

TEST_CASE("published quantized checkpoints give the same logits, and their bit widths") {
    const Scratch scratch;
    const auto model = started_model(3);
    File file(*model);
    file.publish(*model);
    const apps::Checkpoint checkpoint(file.write(scratch / "a"), "--resume");
    const auto other = nn::make_model(small_config(), DType::f64, 9);
    const auto bits = apps::stored_bits(checkpoint.file(), "a", *other);
    REQUIRE(bits);
    CHECK(bits->weights == 3);
    CHECK(bits->activations == 3);
    apps::attach_quantizers(*other, {3, 3, false, false, false});
    const apps::LoadReport report = checkpoint.load_parameters(*other);
    CHECK(report.complete());
    CHECK(report.converted.size() > 10);
    CHECK(report.other_widths.empty());
    CHECK(logits_of(*other) == logits_of(*model));
}

TEST_CASE("a quantizer that was never started is refused by name, but not one that is never used") {
    const Scratch scratch;
    const auto model = started_model(3);
    File file(*model);
    file.publish(*model);
    file.put("blocks.0.attn.quant_k.init_state", nn::Tensor::zeros({1}, DType::f64));
    const apps::Checkpoint checkpoint(file.write(scratch / "a"), "--resume");
    const auto other = quantized_model(small_config(), 9, 3);
    CHECK(refuses("blocks.0.attn.quant_k", [&] { checkpoint.load_parameters(*other); }));

    nn::ModelConfig swin = nn::model_config("swin_tiny_patch4_window7_224");
    swin.img_size = 8;
    swin.embed_dim = 8;
    swin.depths = {1};
    swin.heads = {2};
    swin.window_size = 2;
    const auto small = quantized_model(swin, 3, 3);
    quant::calibrate_weights(*small);
    quant::calibrate_activations(*small, some_images(8));
    File idle(*small);
    idle.publish(*small);
    idle.put("patch_embed.quant.alpha", nn::Tensor::zeros({7}, DType::f64));
    idle.put("patch_embed.quant.init_state", nn::Tensor::zeros({1}, DType::f64));
    const auto loaded = quantized_model(swin, 9, 3);
    CHECK(apps::Checkpoint(idle.write(scratch / "b"), "--resume").load_parameters(*loaded).complete());
    CHECK(logits_of(*loaded) == logits_of(*small));
}

TEST_CASE("steps for other bit widths are told of, and mixed ones ask for flags") {
    const Scratch scratch;
    const auto model = started_model(3);
    File file(*model);
    file.publish(*model);
    file.put("blocks.0.attn.proj_q.nbits", nn::Tensor::full({1}, 4.4, DType::f64));
    const apps::Checkpoint checkpoint(file.write(scratch / "a"), "--resume");
    const auto other = nn::make_model(small_config(), DType::f64, 9);
    CHECK(refuses("`wbits`", [&] { apps::stored_bits(checkpoint.file(), "a", *other); }));
    const apps::Checkpoint silent(File(*model).write(scratch / "silent"), "CKPT");
    const auto asked = apps::parse_options({"predict", "silent", "a.png", "--wbits", "3"});
    CHECK(refuses("silent has steps (", [&] { apps::adopt_stored_bits(*asked, silent, *other); }));
    const auto told = apps::parse_options({"predict", "silent", "a.png", "--wbits", "3", "--abits", "3"});
    apps::adopt_stored_bits(*told, silent, *other);
    CHECK(told->quantizer.abits == 3);
    apps::attach_quantizers(*other, {3, 3, false, false, false});
    CHECK(checkpoint.load_parameters(*other).other_widths.find(
              "blocks.0.attn.proj_q was trained with 4 bits") == 0);
}

TEST_CASE("other classes start anew where they may, and a damaged classifier is none of that") {
    const Scratch scratch;
    nn::ModelConfig config = small_config();
    const auto model = nn::make_model(config, DType::f64, 3);
    const std::string path = File(*model).write(scratch / "a");
    config.num_classes = 4;
    const auto other = nn::make_model(config, DType::f64, 9);
    const auto before = other->parameters();
    std::vector<double> head;
    for (const auto& p : before) {
        if (p.name == "head.weight") head = p.parameter.value().to_vector();
    }
    const apps::Checkpoint checkpoint(path, "--finetune");
    CHECK(refuses("other shapes: head.weight (10, 8) instead of (4, 8)",
                  [&] { checkpoint.load_parameters(*other); }));
    const apps::LoadReport report = checkpoint.load_parameters(*other, {.other_classes = true});
    REQUIRE(report.fresh.size() == 2);
    CHECK(report.fresh[0].name == "head.weight");
    CHECK(report.fresh[0].text == "10 classes there, 4 here");
    for (const auto& p : other->parameters()) {
        if (p.name == "head.weight") CHECK(p.parameter.value().to_vector() == head);
    }
    CHECK(apps::stored_classes(checkpoint.file(), config) == 10);
    File odd(*model);
    odd.put("head.bias", nn::Tensor::zeros({3}, DType::f64));
    const apps::Checkpoint damaged(odd.write(scratch / "b"), "--finetune");
    CHECK(refuses("head.bias (3)", [&] { damaged.load_parameters(*other, {.other_classes = true}); }));
}

TEST_CASE("steps are kept, and those of a new classifier start anew") {
    const Scratch scratch;
    const auto model = started_model(3);
    const std::string path = File(*model).write(scratch / "a");
    nn::ModelConfig config = small_config();
    config.num_classes = 4;
    const auto other = quantized_model(config, 9, 3);
    apps::Checkpoint(path, "--finetune")
        .load_parameters(*other, {.steps = true, .missing_steps = true, .other_classes = true});
    const auto step_of = [](nn::Model& of, const std::string& wanted) {
        for (const auto& p : of.parameters()) {
            if (p.name == wanted) return p.parameter.value().item();
        }
        return -1.0;
    };
    quant::calibrate_weights(*other, quant::Ready::keep);
    quant::calibrate_activations(*other, some_images(8), quant::Ready::keep);
    for (const char* kept :
         {"blocks.0.attn.quant_q.alpha", "blocks.0.mlp.fc1.alpha", "blocks.0.mlp.quant2.beta"}) {
        INFO(kept);
        CHECK(step_of(*other, kept) == step_of(*model, kept));
    }
    CHECK(step_of(*other, "head.alpha") > 0);
    CHECK(step_of(*other, "head.alpha") != step_of(*model, "head.alpha"));

    // the first of two stages has float weights: their steps start anew
    auto first = nn::make_model(small_config(), DType::f64, 3);
    apps::attach_quantizers(*first, {32, 3, false, false, false});
    quant::calibrate_weights(*first);
    quant::calibrate_activations(*first, some_images(8));
    const auto second = quantized_model(small_config(), 9, 3);
    const apps::Checkpoint stage(File(*first).write(scratch / "b"), "--finetune");
    CHECK(refuses("missing: ", [&] { stage.load_parameters(*second, {.steps = true}); }));
    const apps::LoadReport report = stage.load_parameters(*second, {.steps = true, .missing_steps = true});
    CHECK(report.fresh.size() == 6);  // four projections and two layers of the MLP
    CHECK(step_of(*second, "blocks.0.attn.quant_v.alpha") == step_of(*first, "blocks.0.attn.quant_v.alpha"));
}

TEST_CASE("another picture size interpolates the positions where it may") {
    const Scratch scratch;
    const auto model = nn::make_model(small_config(), DType::f64, 3);
    const apps::Checkpoint checkpoint(File(*model).write(scratch / "a"), "--finetune");
    nn::ModelConfig config = small_config();
    config.img_size = 16;
    const auto other = nn::make_model(config, DType::f64, 9);
    CHECK(refuses("pos_embed (1, 5, 8) instead of (1, 17, 8)", [&] { checkpoint.load_parameters(*other); }));
    const apps::LoadReport report = checkpoint.load_parameters(*other, {.other_size = true});
    REQUIRE(report.converted.size() == 1);
    CHECK(report.converted[0].text == "interpolated from 2 x 2 to 4 x 4");
    for (const auto& p : other->parameters()) {
        if (p.name != "pos_embed") continue;
        const std::vector<double> stored = checkpoint.file().read<double>("pos_embed");
        CHECK(p.parameter.value().to_vector() ==
              nn::resize_positions(stored, {1, 5, 8}, {.before = 1, .antialias = true}, 4));
    }
}

TEST_CASE("what is missing or unexpected is an error, or starts anew where partial files are allowed") {
    const Scratch scratch;
    const auto model = nn::make_model(small_config(), DType::f64, 3);
    File file(*model);
    file.erase("blocks.0.norm1.bias");
    file.put("blocks.0.mlp.fc1.bias", nn::Tensor::zeros({3}, DType::f64));
    file.put("extra", nn::Tensor::zeros({2}, DType::f64));
    const apps::Checkpoint checkpoint(file.write(scratch / "a"), "--finetune");
    const auto other = nn::make_model(small_config(), DType::f64, 9);
    CHECK(
        refuses("missing: blocks.0.norm1.bias; other shapes: blocks.0.mlp.fc1.bias (3) instead of (32); not "
                "in the model: "
                "extra (2)",
                [&] { checkpoint.load_parameters(*other); }));
    const apps::LoadReport report = checkpoint.load_parameters(*other, {.partial = true});
    const std::vector<std::string> table = report.table("a", "deit");
    REQUIRE(table.size() == 6);
    CHECK(table[0] == "=> deit from a");
    CHECK(table[1] == "=>   loaded         22");
    CHECK(table[4] ==
          "=>   missing         2  blocks.0.norm1.bias, blocks.0.mlp.fc1.bias (3) instead of (32)");
    CHECK(table[5] == "=>   unexpected      1  extra (2)");
    File nothing(*model);
    for (const auto& p : model->parameters()) nothing.erase(p.name);
    nothing.put("extra", nn::Tensor::zeros({2}, DType::f64));
    const apps::Checkpoint foreign(nothing.write(scratch / "b"), "--finetune");
    CHECK(refuses("has nothing of", [&] { foreign.load_parameters(*other, {.partial = true}); }));
}
