// Flags and files of flags that could be taken for something else: each is an error that names the flag, or
// the file and its line. Flags that change nothing are errors too. And how a checkpoint's values come in.
#include <fstream>

#include "apps/options/options.h"
#include "tests/catch.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using apps::parse_options;

namespace {

using Words = std::vector<std::string>;

bool refused(const std::string& text, const Words& words) {
    INFO(text);
    return refuses(text, [&] { parse_options(words); });
}

Words joined(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

}  // namespace

TEST_CASE("numbers are read as they stand, and refused where they do not fit") {
    CHECK(parse_options({"train", "--seed", "010"})->run.seed == 10);
    CHECK(parse_options({"train", "--seed", "+7"})->run.seed == 7);
    CHECK(parse_options({"train", "--epochs", "0012"})->optimizer.epochs == 12);
    CHECK(parse_options({"pretrain", "--depths", "2", "08"})->model.sizes.at("depths") ==
          nn::Size(std::vector<int64_t>{2, 8}));
    CHECK(refused("--seed: '18446744073709551616' is not in 0..18446744073709551615",
                  {"train", "--seed", "18446744073709551616"}));
    CHECK(refused("--seed: '-1' is not in 0..", {"train", "--seed", "-1"}));
    CHECK(refused("--epochs: '99999999999' is not in -2147483648..2147483647",
                  {"train", "--epochs", "99999999999"}));
    for (const char* text : {"1e400", "-1e400", "1e-400"}) {
        CHECK(refused("--lr: '" + std::string(text) + "' does not fit", {"train", "--lr", text}));
    }
    for (const char* text : {"0.5x", "0x10", "1,5", " 1", "1 ", "one", "0.5 0.6", ".", "-"}) {
        CHECK(refused("--lr: '" + std::string(text) + "' is not a number", {"train", "--lr", text}));
    }
    for (const char* text : {"inf", "-inf", "nan"}) {
        CHECK(refused("--lr: '" + std::string(text) + "' is not a finite number", {"train", "--lr", text}));
    }
    for (const char* text : {"3.0", "3.5", "0x10", "1e3", "3 4", "1_000"}) {
        CHECK(refused("--epochs: '" + std::string(text) + "' is not a whole number",
                      {"train", "--epochs", text}));
    }
    CHECK(refused("--opt-betas", {"train", "--opt-betas", "0.9"}));
    CHECK(refused("not understood: 0.7", {"train", "--opt-betas", "0.9", "0.8", "0.7"}));
    for (const char* word : {"--reg=2", "--reg=maybe", "--reg=-1"}) CHECK(refused("--reg", {"train", word}));
}

TEST_CASE("of a list that is given twice the last counts") {
    const auto o = parse_options(
        {"train", "--depths", "2", "2", "6", "2", "-b", "8", "--depths", "1", "1", "--lr", "0.5"});
    CHECK(o->model.sizes.at("depths") == nn::Size(std::vector<int64_t>{1, 1}));
    CHECK(o->data.batch_size == 8);
    CHECK(o->optimizer.lr == 0.5);
}

TEST_CASE("empty values are refused by flag") {
    for (const char* flag :
         {"--lr", "--seed", "--batch-size", "--resume", "--finetune", "--softlabel_path", "--data", "--model",
          "--depths", "--config", "--save_checkpoint_path", "--log"}) {
        CHECK(refused(flag, {"train", flag, ""}));
        CHECK(refused(flag, {"train", std::string(flag) + "="}));
        CHECK(refused(flag, {"train", std::string(flag) + "=", "--dry-run"}));
    }
    for (const char* flag : {"--teacher", "--softlabel_path", "--pack", "--unpack", "--reference_path"}) {
        CHECK(refused(flag, {"softlabel", flag, ""}));
    }
    CHECK(refused("--data", {"bench", "loader", ""}));
}

TEST_CASE("a --config file that could be misread is refused with its line") {
    const Scratch scratch;
    const std::string path = scratch / "recipe.toml";
    const auto line = [&](int number, const std::string& text) {
        std::ofstream(path, std::ios::binary) << text;
        const std::string place = path + ", line " + std::to_string(number) + ": ";
        INFO(text);
        return refused(place, {"pretrain", "--config", path});
    };
    CHECK(line(1, "lr = 0.5; seed = 4\n"));
    CHECK(line(2, "# more\nlr = 0.5 0.6\n"));
    CHECK(line(1, "lr = 0.5\rseed = 4\r"));  // lines of an old Macintosh
    CHECK(line(1, "# lr\rlr = 0.5\r"));
    CHECK(line(3, "lr = 1\nseed = 2\nlr = 2\n"));
    CHECK(line(2, "lr = 1\nlearning-rate = 2\n"));
    CHECK(line(2, "batch-size = 1\nbatch_size = 2\n"));
    CHECK(line(1, "lr = [0.5, 0.6]\n"));
    CHECK(line(1, "opt-betas = [0.9]\n"));
    CHECK(line(1, "opt-betas = [0.9, 0.9, 0.9]\n"));
    CHECK(line(2, "seed = 3\nfinetune = \"\"\n"));
    CHECK(line(1, "resume =\n"));
    CHECK(line(1, "lr = \"\"\n"));
    CHECK(line(1, "seed = 010\n"));
    CHECK(line(1, "seed = 18446744073709551616\n"));
    CHECK(line(1, "epochs = 99999999999\n"));
    CHECK(line(1, "epochs = 2.5\n"));
    CHECK(line(1, "epochs = true\n"));
    CHECK(line(1, "lr = 1e400\n"));
    CHECK(line(1, "lr = nan\n"));
    CHECK(line(1, "lr = 0.5 seed\n"));
    CHECK(line(1, "no-aug = 1\n"));
    CHECK(line(1, "no-aug = \"yes\"\n"));
    CHECK(line(1, "no-aug = [true, false]\n"));
    CHECK(line(2, "lr = 0.5\nepochs = 0\n"));        // out of range
    CHECK(line(2, "no-aug = true\nhflip = 0.1\n"));  // no effect
    CHECK(line(1, "remode = \"nothing\"\n"));
    CHECK(line(1, "a = 1979-05-27\n"));
    std::ofstream(path, std::ios::binary) << "lr = 0.5\r\nseed = 4\r\n";  // lines of Windows are TOML
    const auto o = parse_options({"pretrain", "--config", path});
    CHECK(o->optimizer.lr == 0.5);
    CHECK(o->run.seed == 4);
    std::ofstream(path, std::ios::binary) << "no-repeated-aug = true\n";
    CHECK_FALSE(parse_options({"pretrain", "--config", path})->data.repeated_augmentation);
    std::ofstream(path, std::ios::binary) << "no-repeated-aug = false\n";
    CHECK(parse_options({"pretrain", "--config", path})->data.repeated_augmentation);
}

TEST_CASE("flags that change nothing are refused by name") {
    const auto useless = [](const std::string& flag, const Words& words) {
        return refused(flag + ": has no effect ", words);
    };
    const Words labelled{"train", "--softlabel_path", "x"};
    for (const Words& flag : {Words{"--scale", "0.1", "1"}, Words{"--ratio", "1", "1"}, Words{"--hflip", "0"},
                              Words{"--no-aug"}, Words{"--smoothing", "0.1"}}) {
        CHECK(useless(flag[0], joined(labelled, flag)));
        CHECK_NOTHROW(parse_options(joined({"train"}, flag)));
    }
    CHECK_NOTHROW(parse_options(joined(labelled, {"--smoothing", "0"})));  // what labels do
    CHECK_NOTHROW(parse_options(joined(labelled, {"--soft_label_type", "ori"})));
    CHECK(useless("--soft_label_type", {"train", "--soft_label_type", "ori"}));
    for (const char* command : {"train", "softlabel"}) {
        CHECK(refused("--soft_label_type nonsense: unknown", {command, "--soft_label_type", "nonsense"}));
    }
    for (const Words& words : {Words{"train"}, Words{"bench", "step"}, Words{"bench", "op"}}) {
        CHECK(refused("--reg: needs quantized weights", joined(words, {"--reg"})));
        CHECK(refused("--reg: needs", joined(words, {"--reg", "--wbits", "32", "--abits", "-1"})));
        CHECK_NOTHROW(parse_options(joined(words, {"--reg", "--wbits", "2"})));
    }
    CHECK(useless("--reg", {"bench", "step", "--evaluate", "--reg", "--wbits", "2"}));
    CHECK(useless("--head-wise", {"train", "--head-wise"}));
    for (const Words& words : {Words{"train"}, Words{"bench", "step"}, Words{"bench", "op"}}) {
        CHECK(useless("--track-osc", joined(words, {"--track-osc"})));
        CHECK(useless("--track-osc", joined(words, {"--track-osc", "--abits", "2"})));
        CHECK_NOTHROW(parse_options(joined(words, {"--track-osc", "--wbits", "1"})));
        const Words low = joined(words, {"--wbits", "2"}), tracked = joined(low, {"--track-osc"});
        CHECK(useless("--freeze-osc", joined(low, {"--freeze-osc", "0.03"})));
        CHECK(useless("--freeze-osc-end", joined(tracked, {"--freeze-osc-end", "0.02"})));
        CHECK(useless("--freeze-osc", joined(words, {"--wbits", "1", "--track-osc", "--freeze-osc", "0.1"})));
        const Words frozen = joined(tracked, {"--freeze-osc", "0.03"});
        CHECK_NOTHROW(parse_options(frozen));
        CHECK_NOTHROW(parse_options(joined(frozen, {"--freeze-osc-end", "0.01"})));
        CHECK(refused("--freeze-osc: must be 0.03..1", joined(tracked, {"--freeze-osc", "0.029"})));
        CHECK(refused("--freeze-osc-end: must be at least 0.01 and at most --freeze-osc",
                      joined(frozen, {"--freeze-osc-end", "0.04"})));
    }
    CHECK(useless("--track-osc", {"bench", "step", "--evaluate", "--track-osc", "--wbits", "2"}));
    CHECK_NOTHROW(parse_options({"train", "--evaluate", "--track-osc", "--freeze-osc", "0.1"}));
    for (const Words& words :
         {Words{"train"}, Words{"pretrain"}, Words{"softlabel"}, Words{"bench", "step"}}) {
        CHECK(useless("--no-graph", joined(words, {"--no-graph", "--device", "cpu"})));
        CHECK_NOTHROW(parse_options(joined(words, {"--no-graph"})));
    }
    CHECK(useless("--no-graph", {"bench", "op", "--no-graph"}));
    CHECK(useless("--warmup-lr", {"pretrain", "--warmup-epochs", "0", "--warmup-lr", "1e-5"}));
    CHECK(useless("--scale", {"pretrain", "--no-aug", "--scale", "0.1", "1"}));
    CHECK(useless("--color-jitter", {"pretrain", "--aa", "rand-m9-mstd0.5-inc1", "--color-jitter", "0.4"}));
    CHECK(useless("--remode", {"pretrain", "--remode", "rand"}));
    CHECK(useless("--recount", {"pretrain", "--recount", "2"}));
    CHECK(useless("--mixup-prob", {"pretrain", "--mixup-prob", "0.5"}));
    CHECK(useless("--mixup-mode", {"pretrain", "--mixup-mode", "elem"}));
    CHECK(useless("--mixup-switch-prob", {"pretrain", "--mixup", "1", "--mixup-switch-prob", "0.3"}));
    CHECK_NOTHROW(parse_options({"pretrain", "--mixup", "1", "--cutmix-minmax", "0.2", "0.8",
                                 "--mixup-switch-prob", "0.3", "--mixup-mode", "pair"}));
    for (const char* command : {"pretrain", "train", "softlabel"}) {
        const Words skip{command, "--on-bad-image", "skip"};
        CHECK(useless("--on-bad-image", joined(skip, {"--dataset", "fashion-mnist"})));
        CHECK_NOTHROW(parse_options(joined(skip, {"--dataset", "cifar10"})));
    }
    // A command of training with --evaluate in front of its flags only measures.
    CHECK_NOTHROW(
        parse_options({"train", "--evaluate", "--reg", "--smoothing", "0.1", "--softlabel_path", "x"}));
}

TEST_CASE("softlabel's ways of working do not ignore each other's flags") {
    const auto useless = [](const std::string& flag, const Words& words) {
        return refused(flag + ": has no effect with ", joined({"softlabel"}, words));
    };
    const std::vector<Words> labelling{{"--teacher", "t"},         {"--form", "tree"},
                                       {"--reference_path", "r"},  {"--crops-per-image", "4"},
                                       {"--min-crop-area", "0.1"}, {"--max-crop-area", "0.9"},
                                       {"--hflip", "0"},           {"--model", "deit_tiny_patch16_224"},
                                       {"--img-size", "32"},       {"--batch-size", "8"},
                                       {"--on-bad-image", "skip"}, {"--device", "cpu"},
                                       {"--precision", "fp32"},    {"--seed", "1"}};
    for (const Words& flag : labelling) {
        CHECK(useless(flag[0], joined({"--pack", "x"}, flag)));
        CHECK(useless(flag[0], joined({"--unpack", "x"}, flag)));
    }
    for (const Words& flag : {Words{"--data", "d"}, Words{"--dataset", "cifar10"},
                              Words{"--num_classes", "5"}, Words{"--soft_label_type", "ori"}}) {
        CHECK(useless(flag[0], joined({"--unpack", "x"}, flag)));
        CHECK_NOTHROW(parse_options(joined({"softlabel", "--pack", "x"}, flag)));
    }
    CHECK(useless("--num_classes", {"--pack", "x", "--data", "d", "--num_classes", "5"}));
    CHECK(useless("--num_classes", {"--pack", "x", "--soft_label_type", "ori", "--num_classes", "5"}));
    CHECK(useless("--hflip", {"--reference_path", "x", "--hflip", "0"}));
    CHECK(useless("--min-crop-area", {"--reference_path", "x", "--min-crop-area", "0.2"}));
    CHECK(refused("--pack: leave it or --unpack out", {"softlabel", "--pack", "x", "--unpack", "y"}));
}

TEST_CASE("a checkpoint's flags come in where none was given, and contradictions are named") {
    const auto saved =
        parse_options({"train", "--lr", "0.1", "--wbits", "2", "--reg", "--opt-betas", "0.7", "0.8"})
            ->recipe();
    CHECK(saved.at("lr") == "0.1");
    CHECK(saved.count("save_checkpoint_path") == 0);
    CHECK(saved.count("threads") == 0);
    auto o = parse_options({"train", "--lr", "0.1"});
    o->adopt_recipe(saved, "x");
    CHECK(o->quantizer.wbits == 2);
    CHECK(o->quantizer.reg);
    CHECK(o->optimizer.betas == std::vector<double>{0.7, 0.8});
    CHECK(o->recipe() == saved);
    o = parse_options({"train", "--lr", "0.2", "--wbits", "3"});
    CHECK(refuses("--lr 0.2 (there 0.1)", [&] { o->adopt_recipe(saved, "x"); }));
    CHECK(refuses("--wbits 3 (there 2)", [&] { o->adopt_recipe(saved, "x"); }));
    o = parse_options({"train", "--lr", "0.2"});
    o->adopt_recipe(saved, "x", {"--wbits"});  // only these are compared
    CHECK(o->quantizer.wbits == 2);
    CHECK(o->optimizer.lr == 0.2);
    auto damaged = saved;
    damaged["epochs"] = "many";
    CHECK(refuses("--epochs", [&] { parse_options({"train"})->adopt_recipe(damaged, "x"); }));
    damaged["epochs"] = "-4";
    CHECK(refuses("--epochs", [&] { parse_options({"train"})->adopt_recipe(damaged, "x"); }));
    // Whether a flag has an effect is asked of all flags of the resumed run.
    CHECK_NOTHROW(parse_options({"train", "--resume", "x", "--reg"})->adopt_recipe(saved, "x"));
    o = parse_options({"train", "--resume", "x", "--softlabel_path", "y", "--hflip", "0.5"});
    CHECK(refuses("--hflip: has no effect", [&] { o->adopt_recipe(saved, "x"); }));
}

TEST_CASE("a checkpoint's flags are all there and all known, but those of later versions") {
    for (const char* command : {"train", "pretrain"}) {
        const auto saved = parse_options({command})->recipe();
        CHECK(apps::checked_recipe(saved, command, "x") == saved);
        const auto later = [&](const std::string& name) {
            auto older = saved;
            older.erase(name);
            return apps::checked_recipe(older, command, "x");
        };
        int absent = 0;
        for (const auto& [name, value] : saved) {
            INFO(command << " " << name);
            auto renamed = saved;
            renamed.erase(name);
            std::string damaged = name;
            damaged[damaged.size() / 2] ^= 1;
            renamed[damaged] = value;
            CHECK(refuses("x: its metadata names a flag --",
                          [&] { apps::checked_recipe(renamed, command, "x"); }));
            std::string problem;
            std::map<std::string, std::string> whole;
            try {
                whole = later(name);
                ++absent;
            } catch (const engine::Error& error) {
                problem = error.what();
            }
            const bool says = problem.find("x: its metadata does not say --" + name) == 0;
            CHECK((says || whole == saved));  // what was done then is what is done without the flag now
        }
        CHECK(absent == (std::string(command) == "train" ? 8 : 16));
    }
    CHECK(refuses("names a command", [] { apps::checked_recipe({}, "tran", "x"); }));
    CHECK(refuses("names a command", [] { apps::checked_recipe({}, "bench step", "x"); }));
}
