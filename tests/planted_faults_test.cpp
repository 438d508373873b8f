// Wrong gradients that touch few elements of one input, planted in every op of the table: the gradient check
// finds each of them.
#include <algorithm>
#include <cmath>
#include <set>

#include "tests/catch.h"
#include "tests/op_harness.h"

using namespace vvtq;
using namespace vvtq::tests;
using autograd::Variable;
using engine::Tensor;

namespace {

constexpr double kGradientTolerance = 1e-7;  // of the op table

/// The row, with the gradient of input i doubled where its value lies in [low, high).
OpCase with_fault(const OpCase& row, size_t i, double low, double high) {
    OpCase wrong = row;
    wrong.forward = [row, i, low, high](const std::vector<Variable>& in) {
        std::vector<Variable> inputs = in;
        const Tensor x = in[i].value();
        const auto backward = [x, low, high](const Tensor& dy, autograd::Gradients& dx) {
            const std::vector<double> values = x.to_vector();
            std::vector<double> gradient = dy.to_vector();
            for (size_t e = 0; e < gradient.size(); ++e) {
                if (values[e] >= low && values[e] < high) gradient[e] *= 2;
            }
            dx.set(0, Tensor::from(gradient, dy.shape(), dy.dtype()));
        };
        inputs[i] = autograd::record("test.fault", x, {in[i]}, backward);
        return row.forward(inputs);
    };
    return wrong;
}

/// Where 3 % of the values lie, with the largest gradients among some such windows.
std::pair<double, double> window(const std::vector<double>& values, const std::vector<double>& gradient) {
    std::vector<double> sorted = values;
    std::sort(sorted.begin(), sorted.end());
    const size_t width = sorted.size() * 3 / 100;
    std::pair<double, double> best;
    double most = 0;
    for (const size_t percent : {10, 35, 60, 85}) {
        const size_t begin = sorted.size() * percent / 100;
        const double low = sorted[begin], high = sorted[begin + width];
        double size = 0;
        for (size_t e = 0; e < values.size(); ++e) {
            if (values[e] >= low && values[e] < high) size += std::abs(gradient[e]);
        }
        if (size > most) best = {low, high};
        most = std::max(most, size);
    }
    return best;
}

/// Share of the values in [low, high).
double share(const std::vector<double>& values, double low, double high) {
    const auto within = std::count_if(values.begin(), values.end(),
                                      [=](double value) { return value >= low && value < high; });
    return static_cast<double>(within) / static_cast<double>(values.size());
}

}  // namespace

TEST_CASE("planted faults: a gradient doubled on 3 % of the elements fails, in every op", "[ops]") {
    constexpr int64_t kSmallest = 34;  // of which 3 % are one
    std::set<std::string> done, all;
    for (const OpCase& row : op_cases()) {
        all.insert(row.op);
        size_t i = 0;  // the input, the first that is large enough
        while (i < row.inputs.size() &&
               !(row.inputs[i].differentiable && row.inputs[i].shape.numel() >= kSmallest)) {
            ++i;
        }
        if (i == row.inputs.size() || !done.insert(row.op).second) continue;
        INFO(row.op << ", " << row.label << ", input " << i);
        const Values in = input_values(row);
        const OpResult right = run_op(row, in, upstream_gradient(row), engine::DType::f64);
        const auto [low, high] = window(in[i], right.gradients[i]);
        const double wrong = share(in[i], low, high);
        CHECK((wrong > 0 && wrong <= 0.05));
        const autograd::GradientCheck check =
            check_gradient(with_fault(row, i, low, high), kGradientTolerance);
        INFO(check.report);
        CHECK_FALSE(check.passed);
    }
    CHECK(done == all);
}

TEST_CASE("planted faults: two that passed every test once", "[ops]") {
    int planted = 0;
    for (const OpCase& row : op_cases()) {
        if (row.op != "lsq" || row.inputs[0].shape.numel() < 1000) continue;
        const Values in = input_values(row);
        const double a = in[1][0], o = row.inputs.size() == 4 ? in[2][0] : 0.0;
        for (const auto& [from, to] : {std::pair{2.5, 3.0}, {1.0, 1.2}}) {  // of v = (x - o) / a
            const double low = o + a * from, high = o + a * to;
            const double wrong = share(in[0], low, high);
            if (wrong == 0 || wrong > 0.1) continue;
            INFO(row.label << ", " << from << " to " << to << ", " << wrong << " of the elements");
            CHECK_FALSE(check_gradient(with_fault(row, 0, low, high), kGradientTolerance).passed);
            ++planted;
        }
    }
    CHECK(planted >= 2);
}
