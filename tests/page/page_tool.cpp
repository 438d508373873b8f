// For tests/page_test.py, from standard input to standard output:
//   page_tool page       an inspection as JSON -> the page
//   page_tool quantize   {"x", "bits", "signed", "weight", "steps", "offset" or null} -> what the quantizer
//   does
//                        to x, with the gradients of L = sum (y - x)^2 / 2, in f64. With G steps the first
//                        G-th of x belongs to the first of them, and so on
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "apps/commands/inspect_page.h"
#include "autograd/ops.h"
#include "engine/check.h"
#include "quant/binary.h"
#include "quant/lsq.h"

using namespace vvtq;
using nlohmann::ordered_json;

namespace {

/// dL/dy = y - x.
engine::Tensor upstream(const engine::Tensor& y, const engine::Tensor& x) {
    std::vector<double> values = y.to_vector();
    const std::vector<double> before = x.to_vector();
    for (size_t i = 0; i < values.size(); ++i) values[i] -= before[i];
    return engine::Tensor::from(values, y.shape(), engine::DType::f64);
}

ordered_json quantized(const ordered_json& input) {
    const auto values = input["x"].get<std::vector<double>>();
    const auto steps = input["steps"].get<std::vector<double>>();
    const auto groups = static_cast<int64_t>(steps.size());
    const engine::Shape shape{groups, static_cast<int64_t>(values.size()) / groups};
    const nn::Variable x(engine::Tensor::from(values, shape, engine::DType::f64));
    quant::QuantizerOptions options;
    options.bits = input["bits"];
    options.is_signed = input["signed"];
    options.weight = input["weight"];
    options.offset = !input["offset"].is_null();
    options.dtype = engine::DType::f64;
    options.step_heads = groups;
    if (options.bits == 1) {  // the step is the mean of |x|
        const std::vector<double> y = quant::Binary(options)(x).value().to_vector();
        std::vector<int64_t> occupancy(3, 0);
        double clipped = 0, signal = 0, noise = 0;
        for (size_t i = 0; i < y.size(); ++i) {
            ++occupancy[y[i] < 0 ? 0 : (y[i] > 0 ? 2 : 1)];
            clipped += std::fabs(values[i]) > 1 ? 1.0 / static_cast<double>(y.size()) : 0.0;
            signal += values[i] * values[i];
            noise += (values[i] - y[i]) * (values[i] - y[i]);
        }
        return {{"occupancy", occupancy}, {"clipped", clipped}, {"snr_db", 10 * std::log10(signal / noise)}};
    }
    quant::Lsq lsq(options);
    lsq.set_step(steps[0], options.offset ? input["offset"].get<double>() : 0.0);
    std::vector<nn::NamedParameter> parameters = lsq.parameters();
    parameters[0].parameter.set_value(engine::Tensor::from(steps, {groups}, engine::DType::f64));
    const quant::Inspection found = lsq.inspect(x.value());
    const nn::Variable y = lsq(x);
    y.backward(upstream(y.value(), x.value()));
    ordered_json output = {{"occupancy", found.occupancy},
                           {"clipped", found.clipped_share},
                           {"snr_db", found.signal_to_noise_db}};
    for (const auto& [name, parameter] : parameters) {
        const std::vector<double> gradient = parameter.grad().to_vector();
        output[name == "alpha" ? "scaled" : "offsetGradient"] =
            std::accumulate(gradient.begin(), gradient.end(), 0.0);
    }
    return output;
}

}  // namespace

int main(int count, char** arguments) try {
    const std::string what = count > 1 ? arguments[1] : "";
    const ordered_json input = ordered_json::parse(std::cin);
    if (what == "page") {
        std::cout << apps::inspect_page(input);
    } else if (what == "quantize") {
        std::cout << quantized(input) << '\n';
    } else {
        return 2;
    }
    return 0;
} catch (const engine::Error& error) {
    std::cerr << error.what() << '\n';
    return error.fault() == engine::Fault::input ? 2 : 1;
}
