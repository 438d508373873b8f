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
    CHECK(cross_entropy(z, {2, 1}, 0.3).value().item() ==
          Approx(nn::soft_cross_entropy(z, p).value().item()).epsilon(1e-14));
    CHECK(cross_entropy(z, {2, 1}, 0.0).value().item() ==
          Approx(-0.5 * (log_softmax(0.5, -1, 2, 2) + log_softmax(0, 3, -0.5, 3))).epsilon(1e-14));
    CHECK_THROWS_AS(cross_entropy(z, {3, 1}, 0.0), engine::Error);
    CHECK_THROWS_AS(cross_entropy(z, {-1, 1}, 0.0), engine::Error);
    CHECK_THROWS_AS(cross_entropy(z, {1}, 0.0), engine::Error);
    CHECK_THROWS_AS(cross_entropy(z, {1, 1}, std::nan("")), engine::Error);
}

TEST_CASE("top-k counts labels among the k largest; the lower index wins a tie") {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const Tensor z = Tensor::from({3, 1, 2, 5, 5, 5, nan, 1, 2}, {3, 3}, DType::f64);
    CHECK(count_top_k(z, {0, 0, 2}, 1) == 2);
    CHECK(count_top_k(z, {2, 1, 2}, 1) == 0);
    CHECK(count_top_k(z, {2, 1, 2}, 2) == 3);
    CHECK(count_top_k(z, {1, 2, 2}, 2) == 1);
    CHECK(count_top_k(z, {1, 2, 0}, 1) == 0);
    CHECK(count_top_k(z, {1, 2, 0}, 3) == 3);
    CHECK_THROWS_AS(count_top_k(z, {1, 2, 3}, 1), engine::Error);
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
