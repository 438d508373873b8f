// Kernels that a training step runs beside the model, against their equations.
#include <cmath>
#include <numeric>

#include "engine/random.h"
#include "tests/unit/kernel_support.h"

using namespace vvtq::engine;
using namespace vvtq::tests;

namespace {

Tensor flag_of(double value) { return vector_of({value}, DType::i32); }

/// Learning rate, corrections of a late step, gradient scale.
Tensor schedule_of(double scale = 1.0) { return vector_of({0.1, 1.0, 1.0, scale}, DType::f64); }

AdamwItem item_of(const std::vector<double>& p, const std::vector<double>& g, DType dtype) {
    const Tensor value = vector_of(p, dtype);
    return {value, vector_of(g, dtype), Tensor::zeros(value.shape(), dtype),
            Tensor::zeros(value.shape(), dtype), true};
}

constexpr AdamwRates kRates{0.9, 0.999, 1e-8, 0.05};

}  // namespace

TEST_CASE("kernels: smooth_targets gives the label 1 - s + s/K and the others s/K", "[kernels]") {
    for_dtypes([](DType dtype, double tolerance) {
        const Tensor labels = vector_of({2, 0}, DType::i32);
        const Tensor p({2, 4}, dtype);
        cpu().smooth_targets(labels, 0.2, p);
        CHECK(relative_error(p.to_vector(), {0.05, 0.05, 0.85, 0.05, 0.85, 0.05, 0.05, 0.05}) <= tolerance);
        cpu().smooth_targets(labels, 0.0, p);
        CHECK(p.to_vector() == std::vector<double>{0, 0, 1, 0, 1, 0, 0, 0});
        CHECK_THROWS_AS(cpu().smooth_targets(vector_of({2, 4}, DType::i32), 0.2, p), Error);
        CHECK_THROWS_AS(cpu().smooth_targets(vector_of({-1, 3}, DType::i32), 0.2, p), Error);
        CHECK_THROWS_AS(cpu().smooth_targets(vector_of({1}, DType::i32), 0.2, p), Error);
    });
}

TEST_CASE("kernels: count_top: ties go to the lower index, NaN is not found", "[kernels]") {
    for_dtypes([](DType dtype, double) {
        const auto counts = [&](const std::vector<double>& row, int label) {
            const Tensor z = Tensor::from(row, {1, static_cast<int64_t>(row.size())}, dtype);
            const Tensor found = vector_of({77, 77}, DType::i64);  // overwritten, not added to
            cpu().count_top(z, vector_of({static_cast<double>(label)}, DType::i32), found);
            return found.to_vector();
        };
        using Counts = std::vector<double>;
        const std::vector<double> rising = {0, 1, 2, 3, 4, 5, 6}, equal(7, 0.5);
        CHECK(counts(rising, 6) == Counts{1, 1});
        CHECK(counts(rising, 5) == Counts{0, 1});
        CHECK(counts(rising, 2) == Counts{0, 1});
        CHECK(counts(rising, 1) == Counts{0, 0});
        CHECK(counts(equal, 0) == Counts{1, 1});
        CHECK(counts(equal, 1) == Counts{0, 1});
        CHECK(counts(equal, 4) == Counts{0, 1});
        CHECK(counts(equal, 5) == Counts{0, 0});
        CHECK(counts({3, 9}, 0) == Counts{0, 1});  // fewer classes than five
        CHECK(counts({-kInfinity, kInfinity}, 1) == Counts{1, 1});
        CHECK(counts({kInfinity, kInfinity}, 1) == Counts{0, 1});
        for (size_t bad = 0; bad < rising.size(); ++bad) {
            std::vector<double> row = rising;
            row[bad] = kNaN;
            for (int label = 0; label < 7; ++label) CHECK(counts(row, label) == Counts{0, 0});
        }
        CHECK_THROWS_AS(counts(rising, 7), Error);
        CHECK_THROWS_AS(counts(rising, -1), Error);

        // many rows, against sorting
        constexpr int64_t kRows = 197, kClasses = 31;
        const Tensor z = exact("logits", Shape{kRows, kClasses}, dtype);
        std::vector<double> labels(kRows), expected = {0, 0};
        const std::vector<double> values = z.to_vector();
        for (size_t r = 0; r < kRows; ++r) {
            labels[r] = static_cast<double>(r * 7 % kClasses);
            int above = 0;
            for (size_t c = 0; c < kClasses; ++c)
                above += values[r * kClasses + c] > values[r * kClasses + static_cast<size_t>(labels[r])];
            expected[0] += above < 1;
            expected[1] += above < 5;
        }
        const Tensor found({2}, DType::i64);
        cpu().count_top(z, vector_of(labels, DType::i32), found);
        CHECK(found.to_vector() == expected);
        CHECK(expected[0] > 0);
    });
}

TEST_CASE("kernels: normalize_pixels", "[kernels]") {
    const std::array<double, 3> mean = {0.485, 0.456, 0.406}, deviation = {0.229, 0.224, 0.225};
    const Tensor x({2, 3, 16, 16}, DType::u8);
    for (int64_t i = 0; i < x.numel(); ++i) x.data<uint8_t>()[i] = static_cast<uint8_t>(i * 37 + i / 256);
    std::vector<double> expected;
    for (int64_t i = 0; i < x.numel(); ++i) {
        const auto c = static_cast<size_t>(i / 256 % 3);
        expected.push_back((x.data<uint8_t>()[i] / 255.0 - static_cast<double>(mean[c])) /
                           static_cast<double>(deviation[c]));
    }
    for_dtypes([&](DType dtype, double tolerance) {
        const Tensor y({2, 3, 16, 16}, dtype);
        cpu().normalize_pixels(x, mean, deviation, y);
        CHECK(relative_error(y.to_vector(), expected) <= tolerance);
    });
    const Tensor y({2, 3, 16, 16}, DType::f32);
    CHECK_THROWS_AS(cpu().normalize_pixels(Tensor({2, 4, 16, 12}, DType::u8), mean, deviation, y), Error);
    CHECK_THROWS_AS(cpu().normalize_pixels(x, mean, deviation, Tensor({2, 3, 16, 15}, DType::f32)), Error);
}

TEST_CASE("kernels: clamp_steps lifts what is below 1e-4 and leaves the rest", "[kernels]") {
    for (const DType dtype : {DType::f32, DType::f64}) {
        const std::vector<Tensor> scales = {vector_of({-3, 1e-5, 0.5}, dtype), vector_of({0}, dtype),
                                            vector_of({2e-4}, dtype), vector_of({kNaN, kInfinity}, dtype)};
        const std::vector<double> kept = scales[2].to_vector();
        cpu().clamp_steps(scales);
        const double least = vector_of({1e-4}, dtype).to_vector()[0];
        CHECK(scales[0].to_vector() == std::vector<double>{least, least, 0.5});
        CHECK(scales[1].to_vector() == std::vector<double>{least});
        CHECK(scales[2].to_vector() == kept);
        CHECK(std::isnan(scales[3].to_vector()[0]));  // not hidden
        CHECK(scales[3].to_vector()[1] == kInfinity);
    }
}

TEST_CASE("kernels: divide_parts divides each part by its own scale", "[kernels]") {
    for_dtypes([](DType dtype, double) {
        const Tensor x = Tensor::from({2, 4, 6, 8, 10, 12}, {3, 2}, dtype), y = x.like();
        cpu().divide_parts(x, {vector_of({2}, dtype), Tensor(), vector_of({-0.5}, dtype)}, y);
        CHECK(y.to_vector() == std::vector<double>{1, 2, 6, 8, -20, -24});
        cpu().divide_parts(x, {vector_of({2}, dtype)}, x);  // in place
        CHECK(x.to_vector() == std::vector<double>{1, 2, 3, 4, 5, 6});
        CHECK_THROWS_AS(cpu().divide_parts(x, {Tensor(), Tensor(), Tensor(), Tensor()}, y), Error);
    });
}

TEST_CASE("kernels: stochastic_depth draws by key, row and sample", "[kernels]") {
    const std::vector<double> rates = {0.0, 0.0, 0.3, 0.3, 0.9};
    constexpr int64_t kSamples = 31;
    for_dtypes([&](DType dtype, double tolerance) {
        const Tensor keep({5, kSamples}, dtype);
        const auto drawn = [&](uint64_t seed, const Tensor& places = {}) {
            const Tensor key({1}, DType::i64);
            *key.data<int64_t>() = static_cast<int64_t>(seed);
            cpu().stochastic_depth(key, vector_of(rates, DType::f64), places, keep);
            return keep.to_vector();
        };
        for (const uint64_t seed : {uint64_t{0}, uint64_t{7}, ~uint64_t{0}}) {
            std::vector<double> expected;
            for (uint64_t r = 0; r < rates.size(); ++r) {
                for (uint64_t b = 0; b < kSamples; ++b) {
                    Random random(mix_key({seed, r, b}));
                    expected.push_back(random.uniform() < rates[r] ? 0.0 : 1.0 / (1.0 - rates[r]));
                }
            }
            const std::vector<double> got = drawn(seed);
            CHECK(relative_error(got, expected) <= tolerance);
            for (size_t i = 0; i < got.size(); ++i) CHECK((got[i] == 0.0) == (expected[i] == 0.0));
        }
        CHECK(drawn(1) != drawn(2));
        // the second half of a batch of 62, drawn alone
        std::vector<double> numbers(kSamples);
        std::iota(numbers.begin(), numbers.end(), double{kSamples});
        const std::vector<double> half = drawn(7, vector_of(numbers, DType::i32));
        const Tensor whole({5, 2 * kSamples}, dtype), key = vector_of({7}, DType::i64);
        cpu().stochastic_depth(key, vector_of(rates, DType::f64), {}, whole);
        for (size_t i = 0; i < half.size(); ++i) {
            CHECK(half[i] == whole.to_vector()[i / kSamples * 2 * kSamples + kSamples + i % kSamples]);
        }
        CHECK_THROWS_AS(drawn(7, vector_of({1, 2}, DType::i32)), Error);
    });
}

TEST_CASE("kernels: clip_gradients sets the scale that brings the norm to the limit", "[kernels]") {
    for_dtypes([](DType dtype, double tolerance) {
        const std::vector<AdamwItem> items = {item_of({0, 0}, {3, 0}, dtype), item_of({0}, {4}, dtype),
                                              item_of({0, 0, 0}, {0, -12, 0}, dtype)};
        const Tensor schedule = schedule_of(0.5), found_inf = flag_of(0);
        cpu().clip_gradients(items, 6.5, schedule, found_inf);
        CHECK(relative_error(schedule.to_vector(), {0.1, 1, 1, 0.5}) <= tolerance);  // norm 13
        for (const double most : {13.5, 0.0}) {
            cpu().clip_gradients(items, most, schedule, found_inf);
            CHECK(schedule.to_vector()[3] == 1.0);
        }
        CHECK(items[0].g.to_vector() == std::vector<double>{3, 0});
        CHECK(found_inf.item() == 0);
        cpu().fill(kNaN, items[1].g);
        cpu().clip_gradients(items, 6.5, schedule, found_inf);
        CHECK(schedule.to_vector()[3] == 1.0);
        CHECK(found_inf.item() == 4);
        const Tensor known = flag_of(1);
        cpu().clip_gradients(items, 6.5, schedule, known);
        CHECK(known.item() == 1);
    });
}

TEST_CASE("kernels: find_not_finite sets its bit and clears none", "[kernels]") {
    for_dtypes([](DType dtype, double) {
        for (const double bad : {kNaN, kInfinity, -kInfinity}) {
            const Tensor found_inf = flag_of(0);
            cpu().find_not_finite(vector_of({1, -1e30}, dtype), found_inf);
            CHECK(found_inf.item() == 0);
            cpu().find_not_finite(vector_of({1, bad}, dtype), found_inf);
            CHECK(found_inf.item() == 1);
            cpu().find_not_finite(vector_of({1, 2}, dtype), found_inf);
            CHECK(found_inf.item() == 1);
            const Tensor other = flag_of(2);
            cpu().find_not_finite(vector_of({bad}, dtype), other);
            CHECK(other.item() == 3);
        }
    });
}

TEST_CASE("kernels: adamw changes nothing where found_inf is set", "[kernels]") {
    for_dtypes([](DType dtype, double) {
        const std::vector<AdamwItem> items = {item_of({1, 2}, {3, kNaN}, dtype), item_of({0.5}, {4}, dtype)};
        for (const double bits : {1.0, 2.0, 3.0}) {
            const Tensor found_inf = flag_of(bits);
            cpu().adamw(items, kRates, schedule_of(), found_inf);
            CHECK(found_inf.item() == bits);
            CHECK(items[0].p.to_vector() == std::vector<double>{1, 2});
            CHECK(items[1].p.to_vector() == std::vector<double>{0.5});
            for (const AdamwItem& item : items) {
                for (const double value : item.m.to_vector()) CHECK(value == 0.0);
                for (const double value : item.v.to_vector()) CHECK(value == 0.0);
            }
        }
    });
}

TEST_CASE("kernels: adamw halts where a parameter of one element is not finite", "[kernels]") {
    for_dtypes([](DType dtype, double) {
        const auto flag_after = [&](const std::vector<AdamwItem>& items) {
            const Tensor found_inf = flag_of(0);
            cpu().adamw(items, kRates, schedule_of(), found_inf);
            return found_inf.item();
        };
        const AdamwItem good = item_of({0.5}, {4}, dtype);
        CHECK(flag_after({good, item_of({1, 2}, {kNaN, 3}, dtype)}) == 0);  // a weight: its loss will tell
        CHECK(flag_after({good, item_of({0.5}, {kNaN}, dtype)}) == 2);
        CHECK(flag_after({item_of({kInfinity}, {1}, dtype), good}) == 2);
        CHECK(good.p.item() < 0.5);
    });
}

TEST_CASE("kernels: adamw, several parameters and steps", "[kernels]") {
    const AdamwRates rates{0.9, 0.999, 1e-8, 0.05};
    constexpr double kRate = 5e-4;
    for (const DType dtype : {DType::f32, DType::f64}) {
        std::vector<AdamwItem> items;
        std::vector<std::vector<double>> p, m, v;
        const std::vector<int64_t> sizes = {1, 31, 40000};
        for (const int64_t n : sizes) {
            p.push_back(exact("p" + std::to_string(n), n, 1.0));
            m.emplace_back(p.back().size(), 0.0);
            v.emplace_back(p.back().size(), 0.0);
            items.push_back({vector_of(p.back(), dtype), Tensor({n}, dtype), Tensor::zeros({n}, dtype),
                             Tensor::zeros({n}, dtype), n != 31});
        }
        const Tensor found_inf = vector_of({0}, DType::i32);
        for (int64_t t = 1; t <= 3; ++t) {
            const double gradient_scale = t == 2 ? 0.25 : 1.0;
            const double correction1 = 1 - std::pow(0.9, t), correction2 = 1 - std::pow(0.999, t);
            for (size_t k = 0; k < sizes.size(); ++k) {
                const std::vector<double> g = exact("g" + std::to_string(t), sizes[k], 0.3);
                cpu().copy(vector_of(g, dtype), items[k].g);
                for (size_t i = 0; i < g.size(); ++i) {
                    const double gradient = gradient_scale * g[i];
                    m[k][i] = 0.9 * m[k][i] + 0.1 * gradient;
                    v[k][i] = 0.999 * v[k][i] + 0.001 * gradient * gradient;
                    p[k][i] *= sizes[k] == 31 ? 1.0 : 1 - kRate * rates.weight_decay;
                    p[k][i] -= kRate * m[k][i] / correction1 / (std::sqrt(v[k][i] / correction2) + rates.eps);
                }
            }
            cpu().adamw(items, rates,
                        vector_of({kRate, correction1, correction2, gradient_scale}, DType::f64), found_inf);
        }
        CHECK(found_inf.item() == 0);
        const double tolerance = dtype == DType::f32 ? 1e-6 : 1e-14;
        for (size_t k = 0; k < sizes.size(); ++k) {
            INFO(sizes[k] << " " << name_of(dtype));
            CHECK(relative_error(items[k].p.to_vector(), p[k]) <= tolerance);
            CHECK(relative_error(items[k].m.to_vector(), m[k]) <= tolerance);
            CHECK(relative_error(items[k].v.to_vector(), v[k]) <= tolerance);
        }
    }
}
