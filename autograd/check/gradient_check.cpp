#include "autograd/check/gradient_check.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/random.h"

namespace vvtq::autograd {
namespace {

using engine::DType;
using engine::Random;
using Vector = std::vector<double>;

double largest(const Vector& values) {
    double most = 0;
    for (const double value : values) most = std::isnan(value) ? value : std::max(most, std::abs(value));
    return most;
}

/// A relative error; infinite where nothing is compared with something, NaN where a value is.
double over(double difference, double size) {
    if (difference == 0 && size == 0) return 0;
    return size == 0 ? std::numeric_limits<double>::infinity() : difference / size;
}

double relative_error(const Vector& a, const Vector& b) {
    if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
    Vector difference(a.size());
    std::transform(a.begin(), a.end(), b.begin(), difference.begin(), std::minus<>());
    return over(largest(difference), largest(b));
}

double dot(const Vector& a, const Vector& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
}

/// n values of [-1, 1).
Vector random_values(size_t n, Random& random) {
    Vector values(n);
    for (double& value : values) value = 2 * random.uniform() - 1;
    return values;
}

/// The function under test and where it is tested.
class Subject {
  public:
    Subject(const CheckedFunction& f, const std::vector<Variable>& inputs,
            const GradientCheckOptions& options)
        : f_(f), inputs_(inputs), options_(options) {
        for (const Variable& x : inputs) {
            VVTQ_CHECK(!x.requires_grad() ||
                           (x.value().dtype() == DType::f64 && x.value().device() == engine::Device::cpu),
                       "gradients are checked in f64 on the CPU, and an input is ",
                       name_of(x.value().dtype()));
            VVTQ_CHECK(x.value().numel() > 0, "an input is empty");
            values_.push_back(x.value().to_vector());
        }
        Random random(engine::mix_key({options.seed}));
        base_ = outputs(values_);
        upstream_ = random_values(base_.size(), random);
    }

    const Vector& values(size_t i) const { return values_[i]; }
    double frozen_error() const {
        return options_.frozen ? relative_error(options_.frozen(values_), base_) : 0;
    }

    /// dL/dx of all inputs by backward; empty for those that require none.
    InputValues gradients() const {
        std::vector<Variable> leaves;
        for (const Variable& x : inputs_) leaves.emplace_back(x.value(), x.requires_grad());
        const Variable y = f_(leaves);
        y.backward(Tensor::from(upstream_, y.shape(), DType::f64));
        InputValues gradients;
        for (const Variable& x : leaves) {
            VVTQ_CHECK(!x.requires_grad() || x.grad().defined(), "no gradient arrived at input ",
                       gradients.size());
            gradients.push_back(x.requires_grad() ? x.grad().to_vector() : Vector{});
        }
        return gradients;
    }

    /// The derivative of L where input i moves along `direction`.
    double derivative(size_t i, const Vector& direction) const {
        const double h = options_.step;
        const auto at = [&](double step) {
            InputValues moved = values_;
            for (size_t e = 0; e < direction.size(); ++e) moved[i][e] += step * direction[e];
            return options_.frozen ? options_.frozen(moved) : outputs(moved);
        };
        const Vector far_up = at(2 * h), up = at(h), down = at(-h), far_down = at(-2 * h);
        double sum = 0;
        for (size_t k = 0; k < upstream_.size(); ++k) {
            sum += upstream_[k] * (8 * (up[k] - down[k]) - (far_up[k] - far_down[k]));
        }
        return sum / (12 * h);
    }

  private:
    /// y, off the tape.
    Vector outputs(const InputValues& values) const {
        const NoGrad off;
        std::vector<Variable> constants;
        for (size_t i = 0; i < inputs_.size(); ++i) {
            const Tensor& x = inputs_[i].value();
            constants.emplace_back(inputs_[i].requires_grad() ? Tensor::from(values[i], x.shape(), DType::f64)
                                                              : x);
        }
        const Variable y = f_(constants);
        VVTQ_CHECK(y.value().dtype() == DType::f64, "the output is ", name_of(y.value().dtype()),
                   ", not f64");
        return y.value().to_vector();
    }

    const CheckedFunction& f_;
    const std::vector<Variable>& inputs_;
    const GradientCheckOptions& options_;
    InputValues values_;
    Vector base_, upstream_;
};

/// All elements of n, or of many the first four, the last four and random ones.
std::vector<size_t> some_elements(size_t n, size_t most, Random& random) {
    std::vector<size_t> elements;
    for (size_t e = 0; e < std::min(n, most); ++e) {
        elements.push_back(n <= most || e < 4 ? e : e < 8 ? n - 1 - (e - 4) : random.below(n));
    }
    return elements;
}

/// Random directions that move every element: each by 1/2 to 1, up or down.
std::vector<Vector> random_directions(size_t n, int count, Random& random) {
    std::vector<Vector> directions;
    for (int i = 0; i < count; ++i) {
        Vector& direction = directions.emplace_back(random_values(n, random));
        for (double& v : direction) v = (v < 0 ? -0.5 : 0.5) + v / 2;
    }
    return directions;
}

/// The gradient with 1 % of its elements off by a tenth of its root mean square.
Vector with_wrong_share(Vector gradient, Random& random) {
    const size_t n = gradient.size(), wrong = std::max<size_t>(1, n / 100);
    const double off = 0.1 * std::sqrt(dot(gradient, gradient) / static_cast<double>(n));
    for (size_t i = 0; i < wrong; ++i) gradient[i * n / wrong + random.below(n / wrong)] += off;
    return gradient;
}

Vector times(double factor, Vector values) {
    for (double& value : values) value *= factor;
    return values;
}

InputCheck check_input(const Subject& subject, size_t i, const Vector& gradient,
                       const GradientCheckOptions& options) {
    const size_t n = gradient.size();
    Random random(engine::mix_key({options.seed, n, i}));
    const std::vector<size_t> elements = some_elements(n, options.elements, random);
    const std::vector<Vector> directions = random_directions(n, options.directions, random);

    Vector by_element, along;
    for (const size_t e : elements) {
        Vector unit(n);
        unit[e] = 1;
        by_element.push_back(subject.derivative(i, unit));
    }
    for (const Vector& direction : directions) along.push_back(subject.derivative(i, direction));
    const double norm = std::sqrt(dot(gradient, gradient));

    const auto element_error = [&](const Vector& dx) {
        Vector picked;
        for (const size_t e : elements) picked.push_back(dx[e]);
        return relative_error(picked, by_element);
    };
    const auto direction_error = [&](const Vector& dx) {
        Vector difference;
        for (size_t d = 0; d < directions.size(); ++d)
            difference.push_back(dot(dx, directions[d]) - along[d]);
        return over(largest(difference), norm);
    };
    InputCheck check;
    check.input = i;
    check.elements = element_error(gradient);
    check.directions = direction_error(gradient);
    const Vector scaled = times(1.01, gradient);
    check.wrong_scale = std::min(element_error(scaled), direction_error(scaled));
    check.wrong_share = direction_error(with_wrong_share(gradient, random));
    check.passed = check.elements <= options.tolerance && check.directions <= options.tolerance &&
                   check.wrong_scale > options.tolerance && check.wrong_share > options.tolerance;
    return check;
}

}  // namespace

GradientCheck check_gradient(const CheckedFunction& f, const std::vector<Variable>& inputs,
                             const GradientCheckOptions& options) {
    VVTQ_CHECK(std::any_of(inputs.begin(), inputs.end(), [](const Variable& x) { return x.requires_grad(); }),
               "no input requires a gradient");
    VVTQ_CHECK(options.elements > 0 && options.directions > 0 && options.step > 0, "nothing to check by");
    const Subject subject(f, inputs, options);
    const InputValues gradients = subject.gradients();
    GradientCheck result;
    result.frozen = subject.frozen_error();
    result.passed = result.frozen <= options.tolerance;
    if (!result.passed) {
        result.report = engine::concat("the frozen function is not the op: ", result.frozen, " apart\n");
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
        if (!inputs[i].requires_grad()) continue;
        const InputCheck check = check_input(subject, i, gradients[i], options);
        result.passed = result.passed && check.passed;
        result.report += engine::concat(
            "input ", i, check.passed ? ": passed" : ": FAILED", ", errors ", check.elements, " by element, ",
            check.directions, " by direction; negative controls ", check.wrong_scale, " (1 % off) and ",
            check.wrong_share, " (1 % of the elements off); tolerance ", options.tolerance, "\n");
        result.inputs.push_back(check);
    }
    return result;
}

}  // namespace vvtq::autograd
