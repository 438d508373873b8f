// Every recipe is a command line that is accepted.
#include <filesystem>

#include "apps/options.h"
#include "tests/catch.h"

using namespace vvtq;
namespace fs = std::filesystem;

TEST_CASE("every recipe is accepted by its command") {
    int recipes = 0;
    for (const auto& entry : fs::recursive_directory_iterator(VVTQ_SOURCE_DIR "/recipes")) {
        if (entry.path().extension() != ".toml") continue;
        const std::string name = entry.path().stem().string();
        const std::string command = name.find("pretrain") != std::string::npos    ? "pretrain"
                                    : name.find("softlabel") != std::string::npos ? "softlabel"
                                                                                  : "train";
        INFO(entry.path());
        const auto options = apps::parse_options({command, "--config", entry.path().string()});
        CHECK(options->given("--dataset"));
        CHECK((command == "softlabel" || options->given("--epochs")));
        ++recipes;
    }
    CHECK(recipes >= 11);
}
