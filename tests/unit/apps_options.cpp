// Flags: names, defaults, what is refused, and how a checkpoint's values come in.
#include "apps/options/options.h"

#include <fstream>

#include "apps/commands/model_setup.h"
#include "engine/device.h"
#include "tests/catch.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using apps::parse_options;

TEST_CASE("the published command line is read by its published names") {
    const auto o = parse_options({"train",
                                  "--model",
                                  "deit_tiny_patch16_224_quant",
                                  "--batch-size",
                                  "512",
                                  "--lr",
                                  "5e-4",
                                  "--warmup-epochs",
                                  "0",
                                  "--min-lr",
                                  "0",
                                  "--wbits",
                                  "4",
                                  "--abits",
                                  "4",
                                  "--reg",
                                  "--softlabel_path",
                                  "labels",
                                  "--finetune",
                                  "fp.safetensors",
                                  "--save_checkpoint_path",
                                  "out",
                                  "--log",
                                  "a.log",
                                  "--data",
                                  "pictures",
                                  "--world-size",
                                  "1",
                                  "--rank",
                                  "0",
                                  "--opt",
                                  "adamw",
                                  "--sched",
                                  "cosine",
                                  "--momentum",
                                  "0.90"});
    CHECK(o->command == "train");
    CHECK(o->model.name == "deit_tiny_patch16_224_quant");
    CHECK(o->data.batch_size == 512);
    CHECK(o->optimizer.lr == 5e-4);
    CHECK(o->optimizer.min_lr == 0);
    CHECK(o->optimizer.warmup_epochs == 0);
    CHECK(o->optimizer.epochs == 150);
    CHECK(o->optimizer.weight_decay == 1e-4);
    CHECK(o->quantizer.wbits == 4);
    CHECK(o->quantizer.abits == 4);
    CHECK(o->quantizer.reg);
    CHECK_FALSE(o->quantizer.fixed_scale);
    CHECK(o->labels.num_crops == 4);
    CHECK(o->labels.path == "labels");
    CHECK(o->model.drop_path == 0.1);
    CHECK(o->given("--reg"));
    CHECK_FALSE(o->given("--epochs"));
}

TEST_CASE("short names, several values, and the last of a repeated flag") {
    const auto o = parse_options({"train", "-b", "8", "-j", "3", "-p", "2", "-e", "--wd", "0.3",
                                  "--opt-betas", "0.8", "0.95", "--wbits", "-1", "--lr", "1", "--lr", "2"});
    CHECK(o->data.batch_size == 8);
    CHECK(o->data.workers == 3);
    CHECK(o->run.print_freq == 2);
    CHECK(o->run.evaluate);
    CHECK(o->optimizer.weight_decay == 0.3);
    CHECK(o->optimizer.betas == std::vector<double>{0.8, 0.95});
    CHECK(o->quantizer.wbits == -1);
    CHECK(o->optimizer.lr == 2);
    CHECK(parse_options({"pretrain"})->optimizer.weight_decay == 0.05);
    CHECK(parse_options({"bench", "step"})->command == "bench step");
}

TEST_CASE("vvtq --help lists groups and defaults") {
    const auto o = parse_options({"train", "--help"});
    CHECK(o->command.empty());
    for (const char* part :
         {"Optimizer and schedule", "--weight-decay", "0.0001", "Quantizers", "--num_crops"}) {
        INFO(part);
        CHECK(o->help.find(part) != std::string::npos);
    }
    CHECK(parse_options({"--help"})->help.find("softlabel") != std::string::npos);
}

TEST_CASE("flags that cannot be honoured are refused by name") {
    const std::vector<std::vector<std::string>> lines = {{"--mixpre"},
                                                         {"--dist-backend", "mpi"},
                                                         {"--dist-timeout", "0"},
                                                         {"--nproc", "-1"},
                                                         {"--shards", "0"},
                                                         {"--reduce-precision", "bf16", "--shards", "2"},
                                                         {"--lr-noise", "0.1", "0.9"},
                                                         {"--opt", "sgd"},
                                                         {"--sched", "step"},
                                                         {"--momentum", "0.8"},
                                                         {"--schedule", "100", "160"},
                                                         {"--cos"},
                                                         {"--arch", "resnet18"},
                                                         {"--pretrained"},
                                                         {"--drop", "0.1"},
                                                         {"--act-layer", "relu"},
                                                         {"--act-unsigned"},
                                                         {"--use-offset"},
                                                         {"--bitops-scaler", "1"},
                                                         {"--show-bit-state"},
                                                         {"--decay-rate", "0.2"},
                                                         {"--decay-epochs", "3"},
                                                         {"--cooldown-epochs", "0"},
                                                         {"--patience-epochs", "1"},
                                                         {"--lr-noise-pct", "0.5"},
                                                         {"--lr-noise-std", "0.5"},
                                                         {"--precision", "fp16"},
                                                         {"--precision", "BF16"},
                                                         {"--gpu", "-2"},
                                                         {"--gpu", "1024"},
                                                         {"--gpu", "first"},
                                                         {"--gpu", "0", "--device", "cpu"}};
    for (auto line : lines) {
        const std::string flag = line[0];
        INFO(flag);
        line.insert(line.begin(), "train");
        CHECK(refuses(flag, [&] { parse_options(line); }));
    }
}

TEST_CASE("which device and precision there are is settled behind the flags") {
    const auto parsed = [](std::vector<std::string> flags) {
        flags.insert(flags.begin(), "train");
        return parse_options(flags);
    };
    const auto plain = parsed({});
    CHECK(plain->run.device == "auto");
    CHECK(plain->run.precision == "auto");
    CHECK(plain->run.gpu == -1);
    CHECK_FALSE(plain->run.no_graph);
    CHECK(parsed({"--gpu", "3"})->run.gpu == 3);
    CHECK(parsed({"--no-graph"})->run.no_graph);

    const auto refused = [&](const std::string& name, const std::vector<std::string>& flags) {
        const auto o = parsed(flags);
        return refuses(name, [&] { o->with_flags_in_errors([&] { apps::pick_compute(o->run); }); });
    };
    CHECK(refused("--precision: bf16", {"--device", "cpu", "--precision", "bf16"}));
    CHECK(refused("--precision: tf32", {"--device", "cpu", "--precision", "tf32"}));

    const auto picked = [&](const std::string& precision) {
        const auto o = parsed({"--device", "cpu", "--precision", precision});
        const apps::Compute compute = apps::pick_compute(o->run);
        CHECK(compute.device == engine::Device::cpu);
        CHECK(compute.dtype == compute.parameters);
        CHECK(o->recipe().at("precision") == (precision == "auto" ? "fp32" : precision));
        return compute.dtype;
    };
    CHECK(picked("auto") == engine::DType::f32);
    CHECK(picked("fp32") == engine::DType::f32);
    CHECK(picked("fp64") == engine::DType::f64);
    CHECK(picked("int8") == engine::DType::f32);
    const auto automatic = parsed({"--precision", "fp64"});
    CHECK(apps::pick_compute(automatic->run).device == engine::Device::cpu);  // a GPU has no fp64 here
    CHECK(automatic->run.device == "cpu");
    CHECK_FALSE(engine::tf32_allowed());
    if (engine::is_available(engine::Device::cuda)) {
        CHECK(refused("--precision: fp64", {"--device", "cuda", "--precision", "fp64"}));
    } else {
        const auto nothing = parsed({});
        CHECK(apps::pick_compute(nothing->run).device == engine::Device::cpu);
        CHECK(nothing->run.device == "cpu");
        CHECK(refused("--device", {"--device", "cuda"}));
        CHECK(refused("--precision: bf16", {"--precision", "bf16"}));
    }
}

TEST_CASE("numbers out of their range are refused by flag, NaN among them") {
    for (const char* flag : {"--lr", "--min-lr", "--warmup-lr", "--weight-decay", "--opt-eps", "--clip-grad",
                             "--drop-path", "--smoothing", "--hflip", "--crop-pct"}) {
        for (const char* value : {"nan", "-0.1"}) {
            INFO(flag << " " << value);
            CHECK(refuses(flag, [&] { parse_options({"train", flag, value}); }));
        }
    }
    for (const char* flag : {"--epochs", "--batch-size", "--num_crops", "--print-freq"}) {
        INFO(flag);
        CHECK(refuses(flag, [&] { parse_options({"train", flag, "0"}); }));
        CHECK(refuses(flag, [&] { parse_options({"train", flag, "99999999999999999999"}); }));
    }
    for (const auto& [flag, value] :
         {std::pair{"--smoothing", "1"}, std::pair{"--crop-pct", "0.05"}, std::pair{"--crop-pct", "1e-9"},
          std::pair{"--crop-pct", "1.1"}, std::pair{"--seed", "-1"}, std::pair{"--seed", " -1"}}) {
        INFO(flag << " " << value);
        CHECK(refuses(flag, [&] { parse_options({"train", flag, value}); }));
    }
    CHECK(parse_options({"train", "--crop-pct", "0.1"})->data.crop_pct == 0.1);
    CHECK(parse_options({"train", "--seed", "18446744073709551615"})->run.seed == ~uint64_t{0});
    CHECK(parse_options({"softlabel", "--crops-per-image", "65536"})->labels.crops_per_image == 65536);
    CHECK(refuses("--crops-per-image", [] { parse_options({"softlabel", "--crops-per-image", "65537"}); }));
    CHECK(refuses("--scale", [] { parse_options({"pretrain", "--scale", "0.9", "0.1"}); }));
    CHECK(refuses("--opt-betas", [] { parse_options({"train", "--opt-betas", "0.9", "1"}); }));
    CHECK(refuses("--start-epoch", [] { parse_options({"train", "--start-epoch", "150"}); }));
}

TEST_CASE("fields in messages become the flags of the command") {
    const auto shown = [](const std::string& command, const std::string& message) {
        const auto o = parse_options({command});
        try {
            o->with_flags_in_errors([&] { engine::run_error(message); });
        } catch (const engine::Error& error) {
            CHECK(error.fault() == engine::Fault::run);
            return std::string(error.what());
        }
        return std::string("no error");
    };
    CHECK(shown("train", "`embed_dim` 190: `num_classes`, `rand_augment`") ==
          "--embed-dim 190: --num_classes, `rand_augment`");  // there is no --aa in train
    CHECK(shown("pretrain", "`rand_augment` x: `lr`, `erase_mode`") == "--aa x: --lr, --remode");
    CHECK(shown("train", "`in_chans`, `vvtq train`, 'embed_dim', `") ==
          "`in_chans`, `vvtq train`, 'embed_dim', `");
    CHECK(shown("softlabel", "`label_type`, `lr`") == "--soft_label_type, `lr`");
    const auto o = parse_options({"train"});
    CHECK_THROWS_AS(o->with_flags_in_errors([] { throw engine::OutOfMemory("x"); }), engine::OutOfMemory);
}

TEST_CASE("flags take - and _ alike, on the command line and in a file") {
    const Scratch scratch;
    const auto o = parse_options({"train", "--batch_size", "8", "--softlabel-path=a_b", "--fixed_scale"});
    CHECK(o->data.batch_size == 8);
    CHECK(o->labels.path == "a_b");
    CHECK(o->quantizer.fixed_scale);
    CHECK(o->given("--softlabel_path"));
    std::ofstream(scratch / "recipe.toml") << "warmup_epochs = 3\nnum-crops = 2\n";
    const auto file = parse_options({"train", "--config", scratch / "recipe.toml"});
    CHECK(file->optimizer.warmup_epochs == 3);
    CHECK(file->labels.num_crops == 2);
}

TEST_CASE("a --config file gives flags and the command line wins") {
    const Scratch scratch;
    const std::string path = scratch / "recipe.ini";
    std::ofstream(path)
        << "# a recipe\nlr = 0.5\nreg = true\nwbits = 2\nopt-betas = [0.8, 0.9]\nnum_crops = 2\n";
    const auto o = parse_options({"train", "--config", path, "--lr", "0.25"});
    CHECK(o->optimizer.lr == 0.25);
    CHECK(o->quantizer.reg);
    CHECK(o->optimizer.betas == std::vector<double>{0.8, 0.9});
    CHECK(o->labels.num_crops == 2);
    CHECK(o->given("--num_crops"));
    std::ofstream(path) << "learning = 3\n";
    CHECK(refuses("learning", [&] { parse_options({"train", "--config", path}); }));
    std::ofstream(path) << "lr = fast\n";
    CHECK(refuses(path, [&] { parse_options({"train", "--config", path}); }));
    for (const char* text : {"[x\nlr = 3\n", "[x]\nlr = 3\n", "[train]\nlr = 3\n", "train.lr = 3\n", "x\n",
                             "epochs = [3\nlr = 3\n", "[[x]]\n", "epochs = []\n", "seed =\n", "seed = -1\n",
                             "[default]\nlr = 3\n"}) {
        INFO(text);
        std::ofstream(path) << text;
        CHECK(refuses(path, [&] { parse_options({"train", "--config", path}); }));
    }
    std::ofstream(path) << "# lists may have several lines\n\nopt-betas = [0.8,\n  0.9\n]\nlr = 3 # [high\n";
    const auto lists = parse_options({"train", "--config", path});
    CHECK(lists->optimizer.betas == std::vector<double>{0.8, 0.9});
    CHECK(lists->optimizer.lr == 3);
    CHECK(refuses(scratch.path(), [&] { parse_options({"train", "--config", scratch.path()}); }));
    std::ofstream(path) << "mixpre = true\n";
    CHECK(refuses("--mixpre", [&] { parse_options({"train", "--config", path}); }));
}
