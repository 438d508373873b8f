// Checkpoints: everything comes back, and hostile files are refused by name.
#include "apps/training/checkpoint.h"

#include "apps/commands/model_setup.h"
#include "apps/options/options.h"
#include "apps/training/training_step.h"
#include "quant/calibrate.h"
#include "tests/catch.h"
#include "tests/command_support.h"
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

/// Two pictures, of the classes 1 and 7.
data::Batch small_batch() {
    data::Batch batch;
    batch.size = 2;
    batch.image_size = 8;
    batch.targets = {1, 7};
    for (const double u : uniform01("pixels", 2 * 3 * 8 * 8))
        batch.pixels.push_back(static_cast<uint8_t>(256 * u));
    return batch;
}

apps::DeviceBatch loaded_batch() {
    apps::DeviceBatch place(engine::Device::cpu, 2, 8, 10, false);
    place.load(small_batch());
    return place;
}

apps::StepRates small_rates() { return {.lr = 1e-3}; }

/// A quantized model after one step, and what its checkpoint says.
struct Trained {
    nn::ModelConfig config = small_config();
    apps::DeviceBatch batch = loaded_batch();
    std::unique_ptr<nn::Model> model = nn::make_model(config, DType::f32, 3);
    std::unique_ptr<nn::Adamw> optimizer;
    apps::CheckpointInfo info;

    Trained() {
        apps::attach_quantizers(*model, {3, 3, false, false});
        quant::calibrate_weights(*model);
        quant::calibrate_activations(*model, batch.pictures(DType::f32));
        optimizer = std::make_unique<nn::Adamw>(model->parameters(), nn::AdamwOptions{});
        step(*model, *optimizer);
        info.command = "train";
        info.model = config;
        info.quantized = true;
        info.recipe = apps::parse_options({"train", "--wbits", "3", "--abits", "3", "--lr", "0.1"})->recipe();
        info.epoch = 3;
        info.batch = 4;
        info.step = 1;
        info.best_acc1 = 200.0 / 3;
        info.dataset = 0xFFFFFFFFFFFFFFFFU;
        info.labels = 17;
    }

    apps::StepResult step(nn::Model& of, nn::Adamw& by) const {
        apps::TrainingStep training(of, by, batch, {});
        training.submit(small_rates());
        return training.take();
    }
};

}  // namespace

TEST_CASE("a checkpoint brings back parameters, moments and the place in the run") {
    const Scratch scratch;
    Trained t;
    apps::save_checkpoint(scratch / "a", t.info, *t.model, *t.optimizer);
    const apps::Checkpoint loaded(scratch / "a", "--resume");
    REQUIRE(loaded.info());
    const apps::CheckpointInfo& info = *loaded.info();
    CHECK(info.command == "train");
    CHECK(info.recipe == t.info.recipe);
    CHECK(info.epoch == 3);
    CHECK(info.batch == 4);
    CHECK(info.best_acc1 == t.info.best_acc1);
    CHECK(info.dataset == t.info.dataset);
    CHECK(info.labels == 17);
    CHECK(info.model.embed_dim == 8);
    CHECK(apps::quantizer_flags(info, "a").wbits == 3);

    auto model = nn::make_model(info.model, DType::f32, 99);
    apps::attach_quantizers(*model, apps::quantizer_flags(info, "a"));
    loaded.load_parameters(*model);
    nn::Adamw optimizer(model->parameters(), {});
    loaded.load_optimizer(optimizer);
    CHECK(optimizer.steps_done() == 1);
    apps::save_checkpoint(scratch / "b", info, *model, optimizer);
    CHECK(bytes_of(scratch / "a") == bytes_of(scratch / "b"));
    // Both go on alike: steps are ready and moments are those of the first.
    CHECK(t.step(*t.model, *t.optimizer).loss == t.step(*model, optimizer).loss);
    apps::save_checkpoint(scratch / "a", info, *t.model, *t.optimizer);
    apps::save_checkpoint(scratch / "b", info, *model, optimizer);
    CHECK(bytes_of(scratch / "a") == bytes_of(scratch / "b"));
}

TEST_CASE("weights of a quantized model start a full-precision one where steps may be left over") {
    const Scratch scratch;
    Trained t;
    apps::save_checkpoint(scratch / "a", t.info, *t.model, *t.optimizer);
    const apps::Checkpoint loaded(scratch / "a", "--finetune");
    const auto model = nn::make_model(t.config, DType::f64, 99);
    CHECK(refuses("not in the model: ", [&] { loaded.load_parameters(*model); }));
    loaded.load_parameters(*model, {.steps = false});
    for (const nn::NamedParameter& p : model->parameters()) {
        if (p.name == "head.weight") {
            CHECK(p.parameter.value().to_vector() ==
                  data::SafeTensors::open(scratch / "a").read<double>("head.weight"));
        }
    }
}

TEST_CASE("damaged metadata is refused with the file's name") {
    const Scratch scratch;
    Trained t;
    t.info.crops = 4;
    t.info.means = {64, 1.0 / 3, 0.1, 512.5, 1e4, 2.3e-7, 40};
    const auto good = apps::to_metadata(t.info);
    CHECK(apps::to_metadata(apps::from_metadata(good, "x")) == good);
    auto older = good;  // of versions that did not know them
    older.erase("crops");
    older.erase("means");
    CHECK(apps::from_metadata(older, "x").crops == 0);
    CHECK(apps::from_metadata(older, "x").means.pictures == 0);
    for (const auto& [key, value] : good) {
        if (key == "format" || key == "command" || key == "quantized") continue;
        INFO(key);
        auto bad = good;
        bad.erase(key);
        if (key == "class_names") {  // older files do without
            CHECK(apps::from_metadata(bad, "file.x").class_names.empty());
        } else {
            CHECK(refuses("file.x", [&] { apps::from_metadata(bad, "file.x"); }));
        }
        for (const char* text :
             {"", "{", "nan", "-7", "[1,2", "1e999", "{\"name\":3}", "99999999999999999999999"}) {
            bad[key] = text;
            CHECK(refuses("file.x", [&] { apps::from_metadata(bad, "file.x"); }));
        }
    }
}

TEST_CASE("a model of another or an unknown family is refused") {
    const auto good = apps::to_metadata(Trained().info);
    const std::string deit = "\"family\":\"deit\"";
    const size_t at = good.at("model").find(deit);
    REQUIRE(at != std::string::npos);
    for (const char* family : {"\"family\":\"swin\"", "\"family\":\"unknown\"", "\"family\":3"}) {
        auto bad = good;
        bad["model"].replace(at, deit.size(), family);
        CHECK(refuses("'model'", [&] { apps::from_metadata(bad, "file.x"); }));
    }
}

TEST_CASE("flags and a checkpoint's model must agree") {
    const Scratch scratch;
    const Trained t;
    apps::save_checkpoint(scratch / "a", t.info, *t.model, *t.optimizer);
    const apps::Checkpoint saved(scratch / "a", "--resume");
    apps::Options o;
    CHECK(refuses("--model", [&] { apps::resolve_config(o, nullptr, 10); }));
    CHECK(apps::resolve_config(o, &saved, 10).embed_dim == 8);
    o.model.sizes["embed_dim"] = int64_t{16};
    CHECK(refuses("--embed-dim 16 (there 8)", [&] { apps::resolve_config(o, &saved, 10); }));
    CHECK(refuses("cls_token (1, 1, 8) instead of (1, 1, 16)", [&] { apps::resolve_config(o, &saved, 10); }));
    o.model.sizes.clear();
    CHECK(refuses("10 classes", [&] { apps::resolve_config(o, &saved, 7); }));
    o.model.name = "deit_tiny_patch16_224";
    CHECK(refuses("--model", [&] { apps::resolve_config(o, &saved, 10); }));
    CHECK(refuses("blocks.1.mlp.fc1.weight is missing", [&] { apps::resolve_config(o, &saved, 10); }));
    const nn::ModelConfig fresh = apps::resolve_config(o, nullptr, 7);
    CHECK(fresh.num_classes == 7);
    CHECK(fresh.embed_dim == 192);
    CHECK(fresh.drop_path == 0.1);
    o.model.num_classes = 12;
    CHECK(refuses("--num_classes", [&] { apps::resolve_config(o, nullptr, 7); }));
}

TEST_CASE("hostile checkpoints are refused before anything large is built") {
    const Scratch scratch;
    Trained t;
    const std::string path = scratch / "a";
    const auto open = [&] { apps::Checkpoint(path, "--resume"); };
    engine::pool(engine::Device::cpu).reset_peak();
    const size_t kLittle =
        engine::pool(engine::Device::cpu).in_use() + (1 << 16);  // for a copy of the tensors
    const auto refuses_model = [&](const std::string& part, const auto& change) {
        apps::CheckpointInfo info = t.info;
        change(info.model);
        apps::save_checkpoint(path, info, *t.model, *t.optimizer);
        return refuses(path, open) && refuses(part, open);
    };
    CHECK(refuses_model("'model'", [](nn::ModelConfig& c) { c.name = "unknown"; }));
    CHECK(refuses_model("'model'", [](nn::ModelConfig& c) { c.patch_size = 0; }));
    CHECK(refuses_model("'model'", [](nn::ModelConfig& c) { c.depth = int64_t{1} << 62; }));
    CHECK(refuses_model("blocks.1.mlp.fc1.weight", [](nn::ModelConfig& c) { c.depth = 900; }));
    CHECK(refuses_model("'model'", [](nn::ModelConfig& c) { c.depth = 1'000'000; }));
    CHECK(refuses_model("`img_size`", [](nn::ModelConfig& c) {
        c.img_size = 4096;
        c.patch_size = 1;
    }));
    CHECK(refuses_model("2^30", [](nn::ModelConfig& c) { c.embed_dim = 16384; }));
    CHECK(refuses_model("pos_embed (1, 5, 8) instead of (1, 17, 8)", [](nn::ModelConfig& c) {
        c.img_size = 16;
        c.num_classes = 10;
    }));
    // 3 heads do not divide the width, and no shape tells
    CHECK(refuses_model("`num_heads`", [](nn::ModelConfig& c) { c.num_heads = 3; }));
    CHECK(engine::pool(engine::Device::cpu).peak() < kLittle);
}

TEST_CASE("a moment of another shape is refused by name") {
    const Scratch scratch;
    Trained t;
    apps::save_checkpoint(scratch / "a", t.info, *t.model, *t.optimizer);
    const auto file = data::SafeTensors::open(scratch / "a");
    std::vector<data::TensorBytes> tensors;
    for (const auto& [name, entry] : file.entries()) {
        std::vector<int64_t> shape = entry.shape;
        if (name == "optimizer.norm.weight.exp_avg_sq") shape.insert(shape.begin(), 7, 1);
        tensors.push_back({name, entry.dtype, shape, file.bytes(name)});
    }
    data::write_safetensors(scratch / "b", tensors, file.metadata());
    const apps::Checkpoint loaded(scratch / "b", "--resume");
    CHECK(refuses("optimizer.norm.weight.exp_avg_sq (1, 1, 1, 1, 1, 1, 1, 8) instead of (8)",
                  [&] { loaded.load_optimizer(*t.optimizer); }));
}

TEST_CASE("models that no machine could hold are refused by field") {
    const auto refused = [](const char* field, const auto& change) {
        nn::ModelConfig config = nn::model_config("deit_tiny_patch16_224");
        change(config);
        return refuses(field, [&] { nn::make_model(config, DType::f32, 0); });
    };
    CHECK(refused("`patch_size`", [](nn::ModelConfig& c) {
        c.img_size = 4096;
        c.patch_size = 1;
        c.embed_dim = 3;
    }));
    CHECK(refused("`embed_dim`", [](nn::ModelConfig& c) {
        c.embed_dim = 16384;
        c.num_heads = 1;
    }));
}

TEST_CASE("a parameter that is not finite is named") {
    Trained t;
    for (nn::NamedParameter& p : t.model->parameters()) {
        if (p.name == "blocks.0.mlp.fc1.weight") p.parameter.value().data<float>()[3] = std::nanf("");
    }
    const auto names = [](const auto& action) {
        try {
            action();
        } catch (const engine::Error& error) {
            return error.fault() == engine::Fault::run &&
                   std::string(error.what()).find("blocks.0.mlp.fc1") != std::string::npos;
        }
        return false;
    };
    CHECK(names([&] { apps::check_state_finite(*t.model, *t.optimizer); }));
    apps::TrainingStep training(*t.model, *t.optimizer, t.batch, {});
    training.submit(small_rates());
    const apps::StepResult result = training.take();
    CHECK(result.found_inf == 1);
    CHECK(names([&] { training.explain(small_rates(), result); }));
}

TEST_CASE("a moment that is not finite is named") {
    Trained t;
    for (const auto& [name, moment] : t.optimizer->state()) {
        if (name == "head.weight.exp_avg") moment.data<float>()[2] = std::nanf("");
    }
    std::string message;
    try {
        apps::check_state_finite(*t.model, *t.optimizer);
    } catch (const engine::Error& error) {
        message = error.what();
    }
    CHECK(message.find("head.weight.exp_avg ") != std::string::npos);
}
