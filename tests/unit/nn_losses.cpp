// Losses, the top-k count, and the learning rate schedule.
#include <cmath>
#include <limits>
#include <numbers>

#include "nn/losses.h"
#include "nn/schedule.h"
#include "tests/catch.h"

namespace vvtq::nn {

namespace {

using engine::DType;

Tensor logits_2x3() { return Tensor::from({0.5, -1.0, 2.0, 0.0, 3.0, -0.5}, {2, 3}, DType::f64); }

/// log_softmax of a row of three, element c.
double log_softmax(double a, double b, double c, double z) {
    return z - std::log(std::exp(a) + std::exp(b) + std::exp(c));
}

}  // namespace

TEST_CASE("soft cross-entropy is the mean over rows of -p . log_softmax(z)") {
    const Tensor p = Tensor::from({0.2, 0.3, 0.5, 0.0, 1.0, 0.0}, {2, 3}, DType::f64);
    const double first = 0.2 * log_softmax(0.5, -1, 2, 0.5) + 0.3 * log_softmax(0.5, -1, 2, -1) +
                         0.5 * log_softmax(0.5, -1, 2, 2);
    const double second = log_softmax(0, 3, -0.5, 3);
    CHECK(nn::soft_cross_entropy(Variable(logits_2x3()), p).value().item() ==
          Approx(-0.5 * (first + second)).epsilon(1e-14));
}

TEST_CASE("hard cross-entropy gives the label 1 - s + s/K and every other class s/K") {
    const Variable z(logits_2x3());
    const Tensor p = Tensor::from({0.1, 0.1, 0.8, 0.1, 0.8, 0.1}, {2, 3}, DType::f64);
    CHECK(cross_entropy(z, label_tensor({2, 1}, 3), 0.3).value().item() ==
          Approx(nn::soft_cross_entropy(z, p).value().item()).epsilon(1e-14));
    CHECK(cross_entropy(z, label_tensor({2, 1}, 3), 0.0).value().item() ==
          Approx(-0.5 * (log_softmax(0.5, -1, 2, 2) + log_softmax(0, 3, -0.5, 3))).epsilon(1e-14));
    CHECK_THROWS_AS(cross_entropy(z, label_tensor({3, 1}, 4), 0.0), engine::Error);
    CHECK_THROWS_AS(label_tensor({3, 1}, 3), engine::Error);
    CHECK_THROWS_AS(label_tensor({-1, 1}, 3), engine::Error);
    CHECK_THROWS_AS(cross_entropy(z, label_tensor({1}, 3), 0.0), engine::Error);
    CHECK_THROWS_AS(cross_entropy(z, label_tensor({1, 1}, 3), std::nan("")), engine::Error);
}

TEST_CASE("top counts: labels that are the largest logit, and among the 5 largest") {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const auto counts = [](const Tensor& z, const std::vector<int>& labels) {
        const std::vector<double> found = count_top(z, label_tensor(labels, z.shape()[1])).to_vector();
        return std::pair(found[0], found[1]);
    };
    using Counts = std::pair<double, double>;
    // with three classes the second count is of all rows but those with NaN
    const Tensor few = Tensor::from({3, 1, 2, 5, 5, 5, nan, 1, 2}, {3, 3}, DType::f64);
    CHECK(counts(few, {0, 0, 2}) == Counts{2, 2});
    CHECK(counts(few, {2, 1, 0}) == Counts{0, 2});
    CHECK(counts(few, {1, 2, 1}) == Counts{0, 2});
    // the lower index wins a tie
    const Tensor z = Tensor::from({9, 8, 7, 6, 5, 4, 3,   //
                                   1, 1, 1, 1, 1, 1, 1,   //
                                   0, 1, 2, 3, 4, 5, 6,   //
                                   2, 7, 2, 7, 2, 7, 2},  //
                                  {4, 7}, DType::f64);
    CHECK(counts(z, {0, 0, 6, 1}) == Counts{4, 4});
    CHECK(counts(z, {1, 1, 5, 3}) == Counts{0, 4});
    CHECK(counts(z, {4, 4, 2, 2}) == Counts{0, 4});
    CHECK(counts(z, {5, 5, 1, 4}) == Counts{0, 0});
    CHECK(counts(z, {6, 6, 0, 6}) == Counts{0, 0});
    CHECK_THROWS_AS(count_top(z, label_tensor({0, 0, 0}, 7)), engine::Error);
    CHECK_THROWS_AS(count_top(few, label_tensor({1, 2, 3}, 4)), engine::Error);
}

TEST_CASE("the learning rate warms up on a line and then follows a half cosine") {
    const CosineSchedule plain{.lr = 5e-4, .epochs = 150};
    CHECK(plain.at(0) == 5e-4);
    CHECK(plain.at(75) == Approx(2.5e-4).epsilon(1e-12));
    CHECK(plain.at(50) == Approx(3.75e-4).epsilon(1e-12));  // cos(pi/3) = 1/2
    CHECK(std::abs(plain.at(150)) < 1e-18);

    const CosineSchedule warm{
        .lr = 1e-3, .min_lr = 1e-5, .warmup_lr = 1e-6, .warmup_epochs = 5, .epochs = 20};
    CHECK(warm.at(0) == 1e-6);
    CHECK(warm.at(2) == Approx(1e-6 + 2 * (1e-3 - 1e-6) / 5).epsilon(1e-14));
    // after the warm-up the cosine is where it would be without one
    CHECK(warm.at(5) ==
          Approx(1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + std::cos(std::numbers::pi / 4))).epsilon(1e-14));
    CHECK(warm.at(10) == Approx(0.5 * (1e-3 + 1e-5)).epsilon(1e-12));
    CHECK(warm.at(20) == Approx(1e-5).epsilon(1e-12));
    CHECK_THROWS_AS(warm.at(-1), engine::Error);
    CHECK_THROWS_AS(warm.at(std::nan("")), engine::Error);
}

}  // namespace vvtq::nn
