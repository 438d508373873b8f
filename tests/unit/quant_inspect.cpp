// inspect and figures: hand-made tensors, computed by hand.
#include <cmath>

#include "quant/binary.h"
#include "quant/inspect/figures.h"
#include "quant/inspect/inspect.h"
#include "quant/lsq.h"
#include "tests/unit/quant_support.h"

namespace vvtq::quant {

namespace {

using engine::DType;
using engine::Tensor;

Tensor values(const std::vector<double>& x, const engine::Shape& shape) {
    return Tensor::from(x, shape, DType::f64);
}

void check_near(const std::vector<double>& got, const std::vector<double>& expected, double margin = 1e-12) {
    REQUIRE(got.size() == expected.size());
    for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == Approx(expected[i]).epsilon(0).margin(margin));
}

/// v = x / 0.5 = -2.6, -2, -0.6, -0.4, 0.2, 0.52, 0.8, 1.8 of codes -2..1
const std::vector<double> kEight = {-1.3, -1.0, -0.3, -0.2, 0.1, 0.26, 0.4, 0.9};

struct TwoBits : Lsq {
    TwoBits() : Lsq({.bits = 2, .weight = true, .dtype = DType::f64}) { set_step(0.5); }
};

}  // namespace

TEST_CASE("inspect: codes, clipping, noise, entropy and distances of eight numbers") {
    TwoBits q;
    const Inspection seen = inspect(q, values(kEight, {8}));
    CHECK(seen.codes == std::vector<int>{-2, -2, -1, 0, 0, 1, 1, 1});
    CHECK(seen.occupancy == std::vector<int64_t>{2, 1, 2, 3});
    check_near(seen.positions, {-2.6, -2, -0.6, -0.4, 0.2, 0.52, 0.8, 1.8});
    check_near({seen.clipped_below, seen.clipped_above, seen.clipped_share}, {0.125, 0.125, 0.25});
    // errors -0.3 0 0.2 -0.2 0.1 -0.24 -0.1 0.4
    check_near({seen.signal, seen.noise}, {3.8676, 0.4076});
    check_near({seen.signal_to_noise_db}, {10 * std::log10(3.8676 / 0.4076)});
    // shares 2/8 1/8 2/8 3/8
    check_near({entropy_bits(seen.occupancy)}, {0.5 + 0.375 + 0.5 + 0.375 * std::log2(8.0 / 3)});
    const Distances distance = distances(seen);
    // |v - q| of the six within: 0 0.4 0.4 0.2 0.48 0.2; edges at -1.5, -0.5, 0.5: 1.1 0.5 0.1 0.1 0.3 0.02
    // 0.3 1.3
    check_near({distance.center, distance.boundary, distance.near_boundary}, {1.68 / 6, 3.72 / 8, 0.125});
    // bin means -2.3, -0.6, -0.1, 1.04
    check_near({variance_in_bins(seen)}, {(0.18 + 0 + 0.18 + 0.2704 + 0.0576 + 0.5776) / 8});
}

TEST_CASE("inspect: parts of a tensor add up to the whole") {
    TwoBits q;
    Inspection parts = inspect(q, values({kEight.begin(), kEight.begin() + 3}, {3}));
    parts.append(inspect(q, values({kEight.begin() + 3, kEight.end()}, {5})));
    const Inspection whole = inspect(q, values(kEight, {8}));
    CHECK(parts.codes == whole.codes);
    CHECK(parts.occupancy == whole.occupancy);
    CHECK(parts.values == whole.values);
    check_near({parts.clipped_below, parts.clipped_above, parts.clipped_share, parts.signal_to_noise_db},
               {whole.clipped_below, whole.clipped_above, whole.clipped_share, whole.signal_to_noise_db});
    check_near({variance_in_bins(parts)}, {variance_in_bins(whole)});
}

TEST_CASE("inspect: an offset moves the positions") {
    Lsq q({.bits = 2, .is_signed = false, .offset = true, .dtype = DType::f64});
    q.set_step(0.5, -0.2);
    const Inspection seen = inspect(q, values({-0.3, -0.2, 0.1, 2.3}, {4}));
    check_near(seen.positions, {-0.2, 0, 0.6, 5});
    CHECK(seen.codes == std::vector<int>{0, 0, 1, 3});
    check_near({seen.clipped_below, seen.clipped_above}, {0.25, 0.25});
    // y -0.2 -0.2 0.3 1.3
    check_near({seen.noise}, {0.01 + 0 + 0.04 + 1});
}

TEST_CASE("inspect: each head has the step of its own") {
    Lsq q({.bits = 2, .weight = true, .dtype = DType::f64, .step_heads = 2});
    q.calibrate(values({1, -1, 10, -10}, {2, 2}));
    CHECK(q.describe().scale == std::vector<double>{1, 10});
    const Inspection seen = inspect(q, values({0.6, -2.5, 6, -30}, {2, 2}));
    check_near(seen.positions, {0.6, -2.5, 0.6, -3});
    CHECK(seen.codes == std::vector<int>{1, -2, 1, -2});
    check_near({seen.clipped_below, seen.clipped_above}, {0.5, 0});
    check_near({seen.noise}, {0.16 + 0.25 + 16 + 100});
    const Distances distance = distances(seen);
    check_near({distance.center}, {0.4});
    check_near({distance.boundary}, {(0.1 + 1 + 0.1 + 1.5) / 4});
}

TEST_CASE("inspect: one bit has signs, and the step that follows from the tensor") {
    Binary q({.bits = 1, .weight = true, .dtype = DType::f64});
    const Inspection seen = inspect(q, values({0.5, -1.5, 0.25, 0}, {2, 2}));  // s = 2.25 / 4
    const double s = 0.5625;
    CHECK(seen.codes == std::vector<int>{1, -1, 1, 0});
    CHECK(seen.occupancy == std::vector<int64_t>{1, 1, 2});
    check_near(seen.positions, {0.5 / s, -1.5 / s, 0.25 / s, 0});
    check_near({seen.clipped_below, seen.clipped_above}, {0.25, 0});  // |x| > 1
    check_near({seen.noise}, {std::pow(0.5 - s, 2) + std::pow(1.5 - s, 2) + std::pow(0.25 - s, 2)});
    check_near({distances(seen).boundary}, {(0.5 + 1.5 + 0.25) / s / 4});  // the only edge is 0
    check_near({distances(seen).near_boundary}, {0.25});
}

TEST_CASE("inspect: a tensor that is met exactly has no noise") {
    TwoBits q;
    const Inspection seen = inspect(q, values({-1, -0.5, 0, 0.5}, {4}));
    CHECK(std::isinf(seen.signal_to_noise_db));
    check_near({entropy_bits(seen.occupancy), distances(seen).center, variance_in_bins(seen)}, {2, 0, 0});
}

TEST_CASE("variation: magnitude, outlier ratio and kurtosis") {
    const Variation found = variation({1, 2, 3, -6});
    check_near({found.least, found.most, found.mean, found.magnitude}, {-6, 3, 0, 3});
    check_near({found.deviation, found.outlier}, {std::sqrt(12.5), 6 / std::sqrt(12.5)});
    check_near({found.kurtosis}, {(1 + 16 + 81 + 1296) / 4.0 / (12.5 * 12.5)});
    CHECK(variation({3, 5}).kurtosis == Approx(1));  // two equal halves: the least there is
    CHECK(std::isnan(variation({2, 2}).kurtosis));
}

TEST_CASE("histogram: the ends belong to the outer bins, and equal values to one") {
    const Histogram found = histogram({0, 0.9, 1, 1.5, 3.9, 4}, 4);
    check_near({found.low, found.high}, {0, 4});
    CHECK(found.counts == std::vector<int64_t>{2, 2, 0, 2});
    const Histogram equal = histogram({2, 2, 2}, 3);
    CHECK(equal.counts == std::vector<int64_t>{0, 3, 0});
    CHECK(equal.low < 2);
    CHECK(equal.high > 2);
}

TEST_CASE("the best steps for normal numbers reach the noise of the table") {
    // 4000 normal numbers at the quantiles (i + 0.5) / 4000, by bisection on erfc
    std::vector<double> x;
    for (int i = 0; i < 4000; ++i) {
        double low = -6, high = 6;
        for (int k = 0; k < 60; ++k) {
            const double middle = (low + high) / 2;
            (0.5 * std::erfc(-middle / std::sqrt(2)) < (i + 0.5) / 4000 ? low : high) = middle;
        }
        x.push_back(low);
    }
    for (const int bits : {2, 3, 4}) {
        // codes at half steps, as the table's quantizer has them: an unsigned range with an offset
        Lsq q({.bits = bits, .is_signed = false, .offset = true, .dtype = DType::f64});
        double best = 0;
        for (double step = 0.2; step < 1.2; step += 0.001) {
            q.set_step(step, -step * ((1 << bits) - 1) / 2);
            best = std::max(best, inspect(q, values(x, {4000})).signal_to_noise_db);
        }
        INFO(bits);
        CHECK(best == Approx(normal_signal_to_noise_db(bits)).margin(0.1).epsilon(0));
    }
}

}  // namespace vvtq::quant
