// Kernels of products of codes and of fused passes that no op names by itself, against their equations.
#include <algorithm>
#include <cmath>
#include <map>

#include "tests/unit/kernel_support.h"

using namespace vvtq::engine;
using namespace vvtq::tests;

namespace {

const Shape kOne{1};

}  // namespace

TEST_CASE("kernels: take_columns scales some columns and adds a bias", "[kernels]") {
    constexpr int64_t kRows = 49, kWidth = 31, kCols = 7;
    for_dtypes([](DType dtype, double tolerance) {
        const Tensor z = exact("z", Shape{kRows, kWidth}, dtype), bias = exact("bias", Shape{kCols}, dtype);
        const Tensor s = vector_of({0.75}, dtype), t = vector_of({-1.5}, dtype);
        const auto expected = [&](int64_t first, double factor, bool biased) {
            std::vector<double> y;
            const std::vector<double> in = z.to_vector(), b = bias.to_vector();
            for (size_t i = 0; i < kRows * kCols; ++i) {
                const size_t c = i % kCols;
                y.push_back(factor * in[i / kCols * kWidth + static_cast<size_t>(first) + c] +
                            (biased ? b[c] : 0.0));
            }
            return y;
        };
        const Tensor y({7, 7, kCols}, dtype);
        cpu().take_columns(z, 3, s, t, bias, y);
        CHECK(relative_error(y.to_vector(), expected(3, -1.125, true)) <= tolerance);
        cpu().take_columns(z, 0, s, {}, {}, y);
        CHECK(relative_error(y.to_vector(), expected(0, 0.75, false)) <= tolerance);
        cpu().take_columns(z, 24, {}, t, bias, y);
        CHECK(relative_error(y.to_vector(), expected(24, -1.5, true)) <= tolerance);
        cpu().take_columns(z, 24, {}, {}, {}, y);
        CHECK(y.to_vector() == expected(24, 1.0, false));
        CHECK_THROWS_AS(cpu().take_columns(z, 25, {}, {}, {}, y), Error);
        CHECK_THROWS_AS(cpu().take_columns(z, -1, {}, {}, {}, y), Error);
        CHECK_THROWS_AS(cpu().take_columns(z, 0, {}, {}, Tensor({kCols + 1}, dtype), y), Error);
    });
}

TEST_CASE("kernels: put_columns writes its columns and leaves the others", "[kernels]") {
    constexpr int64_t kRows = 49, kWidth = 31, kCols = 7;
    for_dtypes([](DType dtype, double tolerance) {
        const Tensor x = exact("x", Shape{kRows, kCols}, dtype);
        const std::vector<double> in = x.to_vector();
        for (const bool scaled : {true, false}) {
            const Tensor z = exact("before", Shape{kRows, kWidth}, dtype);
            std::vector<double> expected = z.to_vector();
            for (size_t i = 0; i < in.size(); ++i) {
                expected[i / kCols * kWidth + 24 + i % kCols] = (scaled ? -1.5 : 1.0) * in[i];
            }
            cpu().put_columns(x, scaled ? vector_of({-1.5}, dtype) : Tensor(), 24, z);
            CHECK(relative_error(z.to_vector(), expected) <= tolerance);
            CHECK_THROWS_AS(cpu().put_columns(x, {}, 25, z), Error);
        }
    });
}

TEST_CASE("kernels: accumulate_outer adds s u to every column", "[kernels]") {
    for_dtypes([](DType dtype, double tolerance) {
        const Tensor u = exact("u", Shape{31}, dtype), y = exact("y", Shape{31, 49}, dtype);
        std::vector<double> expected = y.to_vector();
        const std::vector<double> factor = u.to_vector();
        for (size_t i = 0; i < expected.size(); ++i) expected[i] += 0.75 * factor[i / 49];
        cpu().accumulate_outer(u, vector_of({0.75}, dtype), y);
        CHECK(relative_error(y.to_vector(), expected) <= tolerance);
        CHECK_THROWS_AS(cpu().accumulate_outer(u, vector_of({1}, dtype), Tensor({30, 49}, dtype)), Error);
    });
}

TEST_CASE("kernels: layer_norm_apply gives what layer_norm gave", "[kernels]") {
    for_dtypes([](DType dtype, double) {
        for (const int64_t cols : {1, 31, 197}) {
            const Tensor x = exact("x", Shape{49, cols}, dtype, 1.0, 0.4);
            const Tensor gamma = exact("gamma", Shape{cols}, dtype), beta = exact("beta", Shape{cols}, dtype);
            const Tensor mean({49}, dtype), rstd({49}, dtype), y = x.like(), again = x.like();
            cpu().layer_norm(x, gamma, beta, 1e-6, y, mean, rstd);
            cpu().layer_norm_apply(x, mean, rstd, gamma, beta, again);
            CHECK(again.to_vector() == y.to_vector());
        }
    });
}

TEST_CASE("kernels: linear_scale turns products of codes into a layer's output", "[kernels]") {
    for_dtypes([](DType dtype, double tolerance) {
        constexpr size_t kOut = 31, kIn = 49;
        const Tensor w = exact("w", Shape{kOut, kIn}, dtype), bias = exact("b", Shape{kOut}, dtype);
        const std::vector<double> codes = w.to_vector();
        for (int parts = 0; parts < 16; ++parts) {
            const bool with_x = parts & 1, with_offset = (parts & 2) && with_x, with_w = parts & 4;
            const bool with_bias = parts & 8;
            const Tensor a_x = with_x ? vector_of({0.375}, dtype) : Tensor();
            const Tensor offset = with_offset ? vector_of({-0.625}, dtype) : Tensor();
            const double a_w = with_w ? 0.25 : 1.0;
            std::vector<double> shifted = with_bias ? bias.to_vector() : std::vector<double>(kOut, 0.0);
            for (size_t i = 0; with_offset && i < codes.size(); ++i)
                shifted[i / kIn] += -0.625 * a_w * codes[i];
            const Tensor scale(kOne, dtype), out({kOut}, dtype);
            cpu().linear_scale(a_x, offset, w, with_w ? vector_of({0.25}, dtype) : Tensor(),
                               with_bias ? bias : Tensor(), scale, out);
            INFO("parts " << parts);
            CHECK(scale.item() == (with_x ? 0.375 : 1.0) * a_w);
            CHECK(relative_error(out.to_vector(), shifted) <= (with_offset || with_bias ? tolerance : 0.0));
        }
    });
}

TEST_CASE("kernels: linear and its gradients take a scale beside the products", "[kernels]") {
    for_dtypes([](DType dtype, double tolerance) {
        const Tensor x = exact("x", Shape{13, 49}, dtype), w = exact("w", Shape{31, 49}, dtype);
        const Tensor dy = exact("dy", Shape{13, 31}, dtype), bias = exact("b", Shape{31}, dtype);
        const Tensor scale = vector_of({0.375}, dtype);
        const auto scaled = [&](const Tensor& plain, const std::vector<double>& added = {}) {
            std::vector<double> values = plain.to_vector();
            for (size_t i = 0; i < values.size(); ++i) {
                values[i] = 0.375 * values[i] + (added.empty() ? 0.0 : added[i % added.size()]);
            }
            return values;
        };
        const Tensor y({13, 31}, dtype), again = y.like(), dx = x.like(), dx_again = x.like(), dw = w.like(),
                                         dw_again = w.like();
        cpu().linear(x, w, {}, {}, y);
        cpu().linear(x, w, scale, bias, again);
        CHECK(relative_error(again.to_vector(), scaled(y, bias.to_vector())) <= tolerance);
        cpu().linear_backward_input(dy, w, {}, dx);
        cpu().linear_backward_input(dy, w, scale, dx_again);
        CHECK(relative_error(dx_again.to_vector(), scaled(dx)) <= tolerance);
        cpu().linear_backward_weight(dy, x, {}, dw);
        cpu().linear_backward_weight(dy, x, scale, dw_again);
        CHECK(relative_error(dw_again.to_vector(), scaled(dw)) <= tolerance);
    });
}

TEST_CASE("kernels: quantize_weights is codes, gradient scale and regularizer of each weight", "[kernels]") {
    for_dtypes([](DType dtype, double) {
        std::vector<WeightItem> items;
        const std::vector<std::pair<Shape, CodeRange>> weights = {{{1, 1}, CodeRange::signed_bits(2)},
                                                                  {{31, 49}, CodeRange::signed_bits(3)},
                                                                  {{12, 3, 4, 4}, CodeRange::signed_bits(8)}};
        for (const auto& [shape, range] : weights) {
            WeightItem item{
                exact("w" + shape.str(), shape, dtype, 0.7),
                kernel_params(vector_of({0.9 / range.count()}, dtype), {}, range, Tensor(kOne, dtype)),
                Tensor(shape, dtype),
                {},
                {}};
            if (items.size() != 1) {  // one without a regularizer
                item.reg = Tensor(kOne, dtype);
                item.stats = Tensor({range.count(), 3}, DType::f64);
            }
            items.push_back(item);
        }
        cpu().quantize_weights(items);
        for (const WeightItem& item : items) {
            const Tensor codes = item.w.like(), g(kOne, dtype);
            cpu().lsq_codes(item.w, item.params, codes);
            cpu().lsq_weight_grad_scale(item.w, item.params, g);
            CHECK(item.codes.to_vector() == codes.to_vector());
            CHECK(item.params.grad_scale.item() == g.item());
            if (!item.reg.defined()) continue;
            WeightItem alone = item;
            alone.reg = Tensor(kOne, dtype);
            alone.stats = item.stats.like();
            cpu().quantize_weights({alone});
            CHECK(item.reg.item() == alone.reg.item());
            CHECK(item.stats.to_vector() == alone.stats.to_vector());
        }
    });
}

TEST_CASE("kernels: the regularizer of a weight of several chunks is its formula", "[kernels]") {
    const CodeRange range = CodeRange::signed_bits(3);
    for_dtypes([&](DType dtype, double tolerance) {
        const Tensor w = exact("w", {300, 250}, dtype, 0.7), reg(kOne, dtype);
        const Tensor stats({range.count(), 3}, DType::f64);
        const QuantParams params = kernel_params(vector_of({0.17}, dtype), {}, range, Tensor(kOne, dtype));
        cpu().quantize_weights({{w, params, w.like(), reg, stats}});
        const std::vector<double> values = w.to_vector();
        const double a = params.scale.item();
        std::map<double, std::vector<double>> bins;  // u of each code
        double distance = 0, variance = 0, counted = 0;
        for (const double value : values) {
            const double u = std::clamp(value / a, -4.0, 3.0) * a, code = std::nearbyint(u / a);
            bins[code].push_back(u);
            distance += (code * a - u) * (code * a - u) / static_cast<double>(values.size());
        }
        for (const auto& [code, us] : bins) {
            double mean = 0, squares = 0;
            for (const double u : us) mean += u / static_cast<double>(us.size());
            for (const double u : us) squares += (u - mean) * (u - mean);
            if (us.size() > 1) variance += squares / static_cast<double>(us.size() - 1);
        }
        CHECK(reg.item() == Approx(distance + variance).epsilon(tolerance));
        const std::vector<double> sums = stats.to_vector();
        for (size_t k = 0; k < sums.size(); k += 3) counted += sums[k];
        CHECK(counted == static_cast<double>(values.size()));
    });
}

TEST_CASE("kernels: quantize_weights_backward adds up what arrives", "[kernels]") {
    for_dtypes([](DType dtype, double tolerance) {
        const CodeRange range = CodeRange::signed_bits(3);
        const Shape shape{31, 49};
        const Tensor w = exact("w", shape, dtype, 0.7), g(kOne, dtype);
        const QuantParams params = kernel_params(vector_of({0.11}, dtype), {}, range, g);
        const Tensor dy = exact("dy", shape, dtype), dreg = vector_of({-0.6}, dtype), reg(kOne, dtype);
        const Tensor stats({range.count(), 3}, DType::f64);
        cpu().quantize_weights({{w, params, w.like(), reg, stats}});

        const Tensor dw_codes = w.like(), dscale_codes(kOne, dtype), dw_reg = w.like(),
                     dscale_reg(kOne, dtype);
        cpu().lsq_backward(dy, w, params, dw_codes, dscale_codes, {});
        cpu().quantize_weights_backward({{w, params, stats, {}, dw_reg, dscale_reg}}, dreg);
        const std::vector<double> through_codes = dw_codes.to_vector();
        const std::vector<double> through_regularizer = dw_reg.to_vector();
        for (int parts = 0; parts < 8; ++parts) {
            const bool codes = parts & 1, regularized = parts & 2, asked = parts & 4;
            const bool both = regularized && asked;
            INFO("parts " << parts);
            const Tensor dw = w.like(), dscale(kOne, dtype);
            cpu().quantize_weights_backward(
                {{w, params, regularized ? stats : Tensor(), codes ? dy : Tensor(), dw, dscale}},
                asked ? dreg : Tensor());
            std::vector<double> expected(through_codes.size(), 0.0);
            for (size_t i = 0; i < expected.size(); ++i) {
                expected[i] = (codes ? through_codes[i] : 0.0) + (both ? through_regularizer[i] : 0.0);
            }
            const double step = (codes ? dscale_codes.item() : 0.0) + (both ? dscale_reg.item() : 0.0);
            const double allowed = codes || both ? 10 * tolerance : 0.0;
            CHECK(relative_error(dw.to_vector(), expected) <= allowed);
            CHECK(relative_error(dscale.to_vector(), {step}) <= allowed);
        }
    });
}
