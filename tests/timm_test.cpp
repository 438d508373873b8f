// timm's checkpoints give timm's logits. VVTQ_TIMM: the folder that tests/timm_checkpoints.py filled.
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "apps/training/checkpoint.h"
#include "autograd/variable.h"
#include "tests/catch.h"
#include "tests/golden_inputs.h"

using namespace vvtq;
using engine::DType;
using engine::Tensor;

namespace {

/// sin(0.37 i), as timm_checkpoints.py has it.
Tensor images(DType dtype) {
    std::vector<double> values(2 * 3 * 224 * 224);
    for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(0.37 * static_cast<double>(i));
    return Tensor::from(values, {2, 3, 224, 224}, dtype);
}

std::vector<double> logits_of(const std::string& model, const std::string& file, DType dtype) {
    nn::ModelConfig config = nn::model_config(model);
    const auto built = nn::make_model(config, dtype, 1);
    apps::Checkpoint(file, "--finetune").load_parameters(*built, false);
    built->train(false);
    const autograd::NoGrad off_tape;
    return built->forward(images(dtype)).value().to_vector();
}

}  // namespace

TEST_CASE("timm's checkpoints give timm's logits", "[.][timm]") {
    const char* folder = std::getenv("VVTQ_TIMM");
    INFO("VVTQ_TIMM names the folder that tests/timm_checkpoints.py filled");
    REQUIRE(folder != nullptr);
    int compared = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        if (entry.path().extension() != ".json") continue;
        const auto expected = nlohmann::json::parse(std::ifstream(entry.path()));
        std::vector<double> logits;
        for (const auto& row : expected["logits"]) {
            for (const auto& value : row) logits.push_back(value.get<double>());
        }
        const std::string model = expected["model"], stem = entry.path().parent_path() / entry.path().stem();
        for (const char* ending : {".pth", ".legacy.pth", ".safetensors"}) {
            INFO(stem << ending);
            CHECK(tests::relative_error(logits_of(model, stem + ending, DType::f64), logits) <= 1e-10);
            ++compared;
        }
        CHECK(tests::relative_error(logits_of(model, stem + ".pth", DType::f32), logits) <= 1e-5);
    }
    WARN(compared << " files compared");
    CHECK(compared > 0);
}
