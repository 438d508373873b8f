// Whole models on the GPU: the golden files' figures, in f32 and in bf16.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "autograd/ops.h"
#include "nn/losses.h"
#include "nn/model.h"
#include "nn/optimizer.h"
#include "quant/attach.h"
#include "quant/bin_regularizer.h"
#include "quant/calibrate.h"
#include "tests/catch.h"
#include "tests/golden_inputs.h"
#include "tests/gpu_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::DType;
using engine::Shape;
using engine::Tensor;
using nlohmann::json;

namespace {

/// Start values of a parameter by its name without the tag (specification section 9).
std::vector<double> start_values(const std::string& tag, const std::string& name, const Shape& shape) {
    const auto contains = [&](const char* part) { return name.find(part) != std::string::npos; };
    double scale = std::sqrt(3.0 * static_cast<double>(shape[0]) / static_cast<double>(shape.numel()));
    double offset = 0.0;
    if (contains("cls_token") || contains("pos_embed")) {
        scale = 0.2;
    } else if (shape.rank() == 1 && name.ends_with(".weight")) {
        scale = 0.1;
        offset = 1.0;
    } else if (name.ends_with(".bias")) {
        scale = 0.05;
    }
    return fill(tag + name, shape.numel(), scale, offset);
}

Tensor target_distributions(const json& golden, int64_t classes) {
    const auto index = golden.at("label_index").get<std::vector<std::vector<size_t>>>();
    const json& packed = golden.at("label_value");
    std::vector<double> p;
    for (size_t b = 0; b < index.size(); ++b) {
        const auto value = (packed.at(0).is_array() ? packed.at(b) : packed).get<std::vector<double>>();
        double rest = 1.0;
        for (const double v : value) rest -= v;
        std::vector<double> row(static_cast<size_t>(classes),
                                rest / static_cast<double>(static_cast<size_t>(classes) - value.size()));
        for (size_t j = 0; j < value.size(); ++j) row.at(index[b].at(j)) = value[j];
        p.insert(p.end(), row.begin(), row.end());
    }
    return Tensor::from(p, {static_cast<int64_t>(index.size()), classes}, DType::f32, kGpu);
}

std::unique_ptr<nn::Model> build(const json& golden) {
    auto model = nn::make_model(nn::model_config(golden.at("model").get<std::string>()), DType::f32, 0);
    for (nn::NamedParameter& p : model->parameters()) {
        const Shape shape = p.parameter.shape();
        p.parameter.set_value(Tensor::from(start_values(golden.at("tag").get<std::string>(), p.name, shape),
                                           shape, DType::f32));
    }
    model->to(kGpu);
    quant::attach(*model, {golden.at("wbits").get<int>(), golden.at("abits").get<int>()});
    return model;
}

/// Errors of a file's figures, computed in `dtype`.
struct Errors {
    double logits;
    std::vector<double> losses;
};

Errors run_golden(const json& golden, DType dtype) {
    const std::unique_ptr<nn::Model> model = build(golden);
    const nn::ModelConfig& config = model->config();
    const Shape shape{golden.at("batch").get<int64_t>(), config.in_chans, config.img_size, config.img_size};
    const auto pixels = fill(golden.at("tag").get<std::string>() + "images", shape.numel(), 1.5);
    const Tensor pictures = Tensor::from(pixels, shape, dtype, kGpu);
    quant::calibrate_weights(*model);
    const std::vector<double> logits = quant::calibrate_activations(*model, pictures).to_vector();
    std::vector<double> expected = numbers(golden.at("eval_logits"));
    double largest = 0;
    for (const double z : expected) largest = std::max(largest, std::abs(z));
    Errors errors{largest_difference(logits, expected) / largest, {}};

    const double weight = golden.at("steps").at(0).at("reg") == 0.0 ? 0.0 : 0.005;
    const Tensor labels = target_distributions(golden, config.num_classes);
    nn::Adamw optimizer(model->parameters(), {});
    model->train(true);
    for (size_t i = 0; i < golden.at("steps").size(); ++i) {
        optimizer.clear_grad();
        quant::regularize(*model, weight > 0);
        autograd::Variable loss =
            nn::soft_cross_entropy(model->forward(pictures, nn::random_key(i, kGpu)), labels);
        const double reference = golden.at("steps").at(i).at("loss");
        errors.losses.push_back(std::abs(loss.value().item() / reference - 1));
        if (weight > 0) {
            loss = autograd::add(loss, autograd::scale(quant::bin_regularizer(*model).total, weight));
        }
        loss.backward();
        optimizer.step(5e-4);
    }
    CHECK(optimizer.found_inf().item() == 0);
    return errors;
}

/// Runs `check` on every golden file of a model that is built here.
template <typename F>
void for_each_golden(F&& check) {
    const std::vector<std::string> known = nn::model_names();
    std::set<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(own_goldens_directory())) {
        if (entry.path().extension() == ".json") files.insert(entry.path());
    }
    int models = 0;
    for (const std::filesystem::path& file : files) {
        const json golden = read_golden(file);
        if (!golden.is_object() || !golden.contains("model")) continue;
        if (std::find(known.begin(), known.end(), golden.at("model").get<std::string>()) == known.end())
            continue;
        // Swin and SReT have more 8-bit layers and so more values beside ties; SReT's files also fix a
        // permutation that training draws. Their ops are compared row by row in gpu_op_table_test.cpp, the
        // models on the CPU.
        if (nn::model_config(golden.at("model").get<std::string>()).family != "deit") continue;
        INFO(file.filename().string());
        check(file.filename().string(), golden);
        ++models;
    }
    REQUIRE(models > 0);
}

std::string list(const std::vector<double>& values) {
    std::string text;
    for (const double value : values) text += engine::concat(" ", value);
    return text;
}

}  // namespace

// Rounding moves codes that lie beside a tie, and each of them moves others in every block behind it: in
// float64 on the CPU, moving the start weights by at most 6e-8 of each, which is what f32 rounds, changes the
// logits of the quantized files by 1.0, 0.59 and 0.29 of the largest, and their losses by 0.026, 0.013 and
// 0.019 (2, 3 and 4 bits); the file whose first and last layers alone are quantized by 1.0e-3 and 2e-6. So
// its first loss is held to the limit here, and the others to what that leaves; gpu_shallow_test.cpp
// and the op table are the close checks of quantized layers. Figures in the test were measured on an H200.
TEST_CASE("gpu models: goldens in f32", "[gpu]") {
    if (gpu_missing()) return;
    for_each_golden([](const std::string& name, const json& golden) {
        const bool quantized = golden.at("wbits") != 32 || golden.at("abits") != 32;
        const Errors errors = run_golden(golden, DType::f32);
        WARN(name << ", f32: logits " << errors.logits << ", losses" << list(errors.losses)
                  << "; first loss within 1e-3: "
                  << (errors.losses.at(0) <= 1e-3 ? "yes" : "no, codes at ties"));
        REQUIRE(!errors.losses.empty());
        if (!quantized) CHECK(errors.logits <= 5e-3);  // 2.0e-7
        // W2A2 7.2e-8, W3A3 2.4e-3, W4A4 4.9e-3, not quantized 5.2e-8
        CHECK(errors.losses[0] <= (quantized ? 0.1 : 1e-3));
        // 4.4e-2 quantized, 1.3e-7 not. Adam's first update is the learning rate in the direction of each
        // gradient, however small it is
        for (const double loss : errors.losses) CHECK(loss <= (quantized ? 0.1 : 5e-3));
    });
}

TEST_CASE("gpu models: goldens in bf16", "[gpu]") {
    if (gpu_missing()) return;
    for_each_golden([](const std::string& name, const json& golden) {
        const bool quantized = golden.at("wbits") != 32 || golden.at("abits") != 32;
        const Errors errors = run_golden(golden, DType::bf16);
        WARN(name << ", bf16: logits " << errors.logits << ", losses" << list(errors.losses));
        REQUIRE(!errors.losses.empty());
        // measured on an H200: 6.4e-2 quantized, 2.2e-3 not
        for (const double loss : errors.losses) CHECK(loss <= (quantized ? 0.15 : 5e-2));
    });
}
