// For tests/page_test.py, from standard input to standard output:
//   page_tool page       an inspection as JSON -> the page
//   page_tool quantize   {"x", "bits", "signed", "weight", "step", "offset" or null} -> what the quantizer
//   does to
//                        x, with the gradients of L = sum (y - x)^2 / 2, in f64
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>

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
    const engine::Shape shape{1, static_cast<int64_t>(values.size())};
    const nn::Variable x(engine::Tensor::from(values, shape, engine::DType::f64));
    quant::QuantizerOptions options;
    options.bits = input["bits"];
    options.is_signed = input["signed"];
    options.weight = input["weight"];
    options.offset = !input["offset"].is_null();
    options.dtype = engine::DType::f64;
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
    lsq.set_step(input["step"], options.offset ? input["offset"].get<double>() : 0.0);
    const quant::Inspection found = lsq.inspect(x.value());
    const nn::Variable y = lsq(x);
    y.backward(upstream(y.value(), x.value()));
    ordered_json output = {{"occupancy", found.occupancy},
                           {"clipped", found.clipped_share},
                           {"snr_db", found.signal_to_noise_db}};
    for (const auto& [name, parameter] : lsq.parameters()) {
        output[name == "alpha" ? "scaled" : "offsetGradient"] = parameter.grad().to_vector()[0];
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
