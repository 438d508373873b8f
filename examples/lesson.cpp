// The figures of docs/quantizers.md, as SVG on standard output: lesson step | gradient | scale | regularizer
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "engine/random.h"
#include "quant/calibrate.h"
#include "quant/lsq.h"

using namespace vvtq;
using engine::CodeRange, engine::DType, nn::Tensor, nn::Variable;
using Points = std::vector<std::pair<double, double>>;

namespace {

constexpr const char* kColors[] = {"#1f6fb4", "#c8501e", "#2a8a4a"};

/// A chart with its axes, 360 wide and 300 high; several stand side by side.
class Chart {
  public:
    Chart(int place, const std::string& title, double left, double right, double bottom, double top,
          bool logarithmic = false)
        : at_(360 * place), left_(left), right_(right), bottom_(bottom), top_(top), log_(logarithmic) {
        text(at_ + 195, 18, "middle", title);
        line({{left, 0}, {right, 0}}, "#bbb");
        std::printf("<rect x=\"%d\" y=\"30\" width=\"300\" height=\"220\" fill=\"none\" stroke=\"#888\"/>\n",
                    at_ + 45);
    }
    /// A number below or beside the frame, and a thin line through it.
    void tick_x(double x, const std::string& label) {
        line({{x, bottom_}, {x, top_}}, "#e4e4e4");
        text(px(x), 266, "middle", label);
    }
    void tick_y(double y, const std::string& label) {
        line({{left_, y}, {right_, y}}, "#e4e4e4");
        text(at_ + 40, py(y) + 4, "end", label);
    }
    void name_x(const std::string& name) { text(at_ + 195, 286, "middle", name); }
    void line(const Points& points, const char* color, bool dashed = false) {
        std::printf("<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%s\"%s points=\"", color,
                    color[1] == 'e' || color[1] == 'b' ? "1" : "2",
                    dashed ? " stroke-dasharray=\"5 4\"" : "");
        for (const auto& [x, y] : points) std::printf("%.0f,%.0f ", px(x), py(std::clamp(y, bottom_, top_)));
        std::printf("\"/>\n");
    }
    void bar(double x, double width, double y, const char* color) {
        y = std::min(y, top_);
        std::printf("<rect x=\"%.0f\" y=\"%.0f\" width=\"%.0f\" height=\"%.0f\" fill=\"%s\"/>\n", px(x),
                    py(y), px(x + width) - px(x), py(0) - py(y), color);
    }
    void dot(double x, double y, const char* color) {
        std::printf("<circle cx=\"%.0f\" cy=\"%.0f\" r=\"5\" fill=\"%s\"/>\n", px(x), py(y), color);
    }
    void label(double x, double y, const std::string& what, const char* color) {
        text(px(x), py(y), "start", what, color);
    }

  private:
    double px(double x) const {
        return at_ + 45 + 300 * (place(x) - place(left_)) / (place(right_) - place(left_));
    }
    double py(double y) const {
        return 250 - 220 * (place(y) - place(bottom_)) / (place(top_) - place(bottom_));
    }
    double place(double value) const { return log_ ? std::log10(std::max(value, 1e-9)) : value; }
    static void text(double x, double y, const char* anchor, const std::string& what,
                     const char* color = "#222") {
        std::printf("<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"%s\" fill=\"%s\">%s</text>\n", x, y, anchor,
                    color, what.c_str());
    }

    int at_;
    double left_, right_, bottom_, top_;
    bool log_;
};

Tensor normal(int64_t n, double deviation, uint64_t seed) {
    engine::Random random(seed);
    std::vector<double> values(static_cast<size_t>(n));
    for (double& value : values) value = deviation * random.normal();
    return Tensor::from(values, {n}, DType::f64);
}

double norm(const Tensor& x) {
    double sum = 0;
    for (const double value : x.to_vector()) sum += value * value;
    return std::sqrt(sum);
}

/// y and the gradients of one number x under a step of 1, 2 bits.
struct One {
    double y, dx, da;
    explicit One(double value) {
        quant::Lsq quantizer({.bits = 2, .dtype = DType::f64});
        quantizer.set_step(1);
        const Variable x(Tensor::from({value}, {1}, DType::f64), true);
        const Variable out = quantizer(x);
        out.backward();
        y = out.value().item();
        dx = x.grad().item();
        da = quantizer.alpha().grad().item() / quantizer.grad_scale(x.value()).item();
    }
};

Points over_numbers(double One::*of) {
    Points points;
    for (int i = -320; i <= 320; ++i) points.emplace_back(i / 100.0, One(i / 100.0).*of);
    return points;
}

void whole_ticks(Chart& chart) {
    for (int i = -3; i <= 3; ++i) chart.tick_x(i, std::to_string(i));
    for (int i = -2; i <= 2; ++i) chart.tick_y(i, std::to_string(i));
}

void figure_step() {
    Chart stairs(0, "2 bits, step 1: y of x", -3.2, 3.2, -2.5, 2.5);
    whole_ticks(stairs);
    stairs.line({{-2.5, -2.5}, {2.5, 2.5}}, "#999", true);
    stairs.line(over_numbers(&One::y), kColors[0]);
    stairs.name_x("x (dashed: y = x)");

    Chart noise(1, "signal to noise, dB, of 20000 normal numbers", 0, 2, 0, 25);
    for (int i = 0; i <= 4; ++i)
        noise.tick_x(i / 2.0, i % 2 == 0 ? std::to_string(i / 2) : std::to_string(i / 2) + ".5");
    for (int i = 0; i <= 25; i += 5) noise.tick_y(i, std::to_string(i));
    const Tensor x = normal(20000, 1, 1);
    for (int bits = 2; bits <= 4; ++bits) {
        const CodeRange range = CodeRange::signed_bits(bits);
        const auto ratio = [&](double a) {
            const Tensor step = Tensor::from({a}, {1}, DType::f64);
            return quant::inspect(x, {step, {}, engine::range_tensor(range, step.device()), {}})
                .signal_to_noise_db;
        };
        Points points;
        for (int i = 4; i <= 200; i += 2) points.emplace_back(i / 100.0, ratio(i / 100.0));
        const char* color = kColors[bits - 2];
        noise.line(points, color);
        const double fitted = quant::fit_step(x, range).step;
        noise.dot(fitted, ratio(fitted), color);
        noise.label(fitted + 0.06, ratio(fitted) + 0.8, std::to_string(bits) + " bits", color);
    }
    noise.name_x("step (the standard deviation is 1; dots: fit_step)");
}

void figure_gradient() {
    Chart dx(0, "dy/dx", -3.2, 3.2, -2.5, 2.5), da(1, "dy/da", -3.2, 3.2, -2.5, 2.5);
    for (Chart* chart : {&dx, &da}) {
        whole_ticks(*chart);
        chart->name_x("v = x / a, 2 bits");
    }
    dx.line(over_numbers(&One::dx), kColors[0]);
    da.line(over_numbers(&One::da), kColors[1]);
}

/// How fast a step moves beside its weights: (|dL/da| / a) / (|dL/dw| / |w|), the root mean square over 24
/// draws of dL/dy, for n weights.
double pace(int64_t n, double deviation) {
    const Variable w(normal(n, deviation, 5), true);
    quant::Lsq quantizer({.bits = 2, .weight = true, .dtype = DType::f64});
    quantizer.calibrate(w.value());
    const double g = quantizer.grad_scale(w.value()).item();
    double squares = 0;
    constexpr int kDraws = 24;
    for (uint64_t draw = 0; draw < kDraws; ++draw) {
        Variable weight(w.value(), true), alpha = quantizer.alpha();
        alpha.clear_grad();
        quantizer(weight).backward(normal(n, 1, 100 + draw));
        const double step = alpha.grad().item() / g / quantizer.step();
        squares += std::pow(step / (norm(weight.grad()) / norm(w.value())), 2);
    }
    return std::sqrt(squares / kDraws);
}

void figure_scale() {
    const char* titles[] = {"weights of deviation 0.02", "weights of deviation 0.1"};
    for (const int place : {0, 1}) {
        const double deviation = place == 0 ? 0.02 : 0.1;
        Chart chart(place, titles[place], 1e2, 1e6, 1e-2, 1e3, true);
        for (const auto& [n, label] :
             {std::pair(1e2, "100"), {1e3, "1000"}, {1e4, "10 000"}, {1e5, "100 000"}, {1e6, ""}})
            chart.tick_x(n, label);
        for (const auto& [r, label] :
             {std::pair(1e-2, "0.01"), {1e-1, "0.1"}, {1.0, "1"}, {1e1, "10"}, {1e2, "100"}, {1e3, "1000"}})
            chart.tick_y(r, label);
        Points plain, lsq, ours;
        for (int64_t n = 128; n <= 131072; n *= 4) {
            const double ratio = pace(n, deviation), size = static_cast<double>(n);
            double magnitude = 0;
            for (const double x : normal(n, deviation, 5).to_vector()) magnitude += std::abs(x);
            plain.emplace_back(size, ratio);
            lsq.emplace_back(size, ratio / std::sqrt(size));
            ours.emplace_back(size, ratio / std::sqrt(magnitude));
        }
        const std::string names[] = {"g = 1", "g = 1 / sqrt(n Qp)", "g = 1 / sqrt(sum |w| Qp)"};
        int i = 0;
        for (const Points& points : {plain, lsq, ours}) {
            chart.line(points, kColors[i]);
            chart.label(i == 0 ? 200 : 3000, points[2].second * (i == 1 ? 0.45 : 1.7), names[i], kColors[i]);
            ++i;
        }
        chart.name_x("weights in the layer, n");
    }
}

void figure_regularizer() {
    constexpr int64_t kWeights = 20000;
    constexpr double kDeviation = 0.05;
    const Variable w(normal(kWeights, kDeviation, 9), true);
    quant::Lsq quantizer({.bits = 2, .weight = true, .dtype = DType::f64});
    quantizer.calibrate(w.value());
    const double a = quantizer.step();
    const auto chart = [&](int place, const std::string& title) {
        constexpr int kBars = 100;
        std::vector<int> counts(kBars);
        for (const double x : w.value().to_vector()) {
            const double at = (x / a + 3.2) / 6.4 * kBars;
            if (at >= 0 && at < kBars) ++counts[static_cast<size_t>(at)];
        }
        Chart histogram(place, title, -3.2, 3.2, 0, 2000);
        for (int i = -3; i <= 3; ++i) histogram.tick_x(i, std::to_string(i));
        for (int i = 0; i <= 2000; i += 500) histogram.tick_y(i, std::to_string(i));
        for (int i = 0; i < kBars; ++i)
            histogram.bar(-3.2 + 6.4 * i / kBars, 6.4 / kBars, counts[static_cast<size_t>(i)], kColors[0]);
        for (const double border : {-1.5, -0.5, 0.5})
            histogram.line({{border, 0}, {border, 2000}}, kColors[1], true);
        histogram.name_x("w / a (dashed: borders of bins)");
    };
    chart(0, "20000 weights before");
    for (int step = 0; step < 12; ++step) {
        Variable weight(w.value(), true);
        const auto params = *quantizer.params(kWeights);
        autograd::quantize_weights({{weight, params, quantizer.range().count()}}, DType::f64, true)
            .regularizer.backward();
        const Tensor update = weight.grad().like();
        engine::kernels(engine::Device::cpu).scale(weight.grad(), -0.01 * kWeights, update);
        engine::kernels(engine::Device::cpu).accumulate_add(update, w.value());
    }
    chart(1, "after 12 steps of the regularizer alone");
}

}  // namespace

int main(int count, char** words) {
    const std::string figure = count == 2 ? words[1] : "";
    void (*draw)() = figure == "step"          ? figure_step
                     : figure == "gradient"    ? figure_gradient
                     : figure == "scale"       ? figure_scale
                     : figure == "regularizer" ? figure_regularizer
                                               : nullptr;
    if (draw == nullptr) {
        std::fprintf(stderr, "lesson: name one of step, gradient, scale, regularizer\n");
        return 2;
    }
    std::printf(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 300\" font-family=\"sans-serif\" "
        "font-size=\"12\"><rect width=\"720\" height=\"300\" fill=\"#fff\"/>\n");
    draw();
    std::printf("</svg>\n");
}
