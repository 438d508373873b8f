// Every recipe is a command line that is accepted, and its model can be built.
#include <filesystem>
#include <set>

#include "apps/commands/model_setup.h"
#include "apps/options/options.h"
#include "tests/catch.h"

using namespace vvtq;
namespace fs = std::filesystem;

TEST_CASE("every recipe is accepted by its command") {
    int recipes = 0;
    std::set<std::string> built;  // models of one size are built once
    for (const auto& entry : fs::recursive_directory_iterator(VVTQ_SOURCE_DIR "/recipes")) {
        if (entry.path().extension() != ".toml") continue;
        const std::string name = entry.path().stem().string();
        const std::string command = name.find("pretrain") != std::string::npos    ? "pretrain"
                                    : name.find("softlabel") != std::string::npos ? "softlabel"
                                                                                  : "train";
        INFO(entry.path());
        std::vector<std::string> words{command, "--config", entry.path().string()};
        // What the recipes of quantized training need, but those without labels.
        if (command == "train" && !name.ends_with("_plain")) {
            words.insert(words.end(), {"--softlabel_path", "labels"});
        }
        const auto options = apps::parse_options(words);
        CHECK(options->given("--dataset"));
        CHECK((command == "softlabel" || options->given("--epochs")));
        ++recipes;
        if (command == "softlabel") continue;
        nn::ModelConfig config = apps::resolve_config(*options, nullptr, 0);
        std::string sizes = config.family;
        for (const nn::Field& field : nn::family_of(config).fields) {
            sizes += "; " + nn::size_text(field.get(config));
        }
        if (!built.insert(sizes).second) continue;
        CHECK_FALSE(nn::make_model(config, engine::DType::f32, 0)->parameters().empty());
    }
    CHECK(recipes >= 40);
}
