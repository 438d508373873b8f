// track_codes and clear_frozen: scripted codes over steps, followed by hand.
#include <algorithm>
#include <cmath>

#include "engine/random.h"
#include "engine/threads.h"
#include "tests/unit/kernel_support.h"

using namespace vvtq::engine;
using namespace vvtq::tests;

namespace {

constexpr double kM = 0.01;
constexpr CodeRange kTwoBits{-2, 1};

Tensor bytes_of(int64_t n, CodeMark value) {
    const Tensor bytes({n}, DType::u8);
    std::fill_n(bytes.data<uint8_t>(), n, static_cast<uint8_t>(value));
    return bytes;
}

/// Weights whose codes a script gives, with step `a`.
struct Script {
    double a;
    CodeTrackItem item;

    Script(int64_t n, double step, CodeRange range, DType dtype, bool freezes)
        : a(step),
          item{Tensor::zeros({n}, dtype),      kernel_params(vector_of({step}, dtype), {}, range),
               bytes_of(n, CodeMark::none),    bytes_of(n, CodeMark::unseen),
               Tensor::zeros({n}, DType::f32), freezes ? Tensor::zeros({n}, DType::f32) : Tensor()} {}

    void set(const std::vector<double>& codes) {
        std::vector<double> w = codes;
        for (double& x : w) x *= a;
        cpu().copy(vector_of(w, item.w.dtype()), item.w);
    }
    std::vector<double> marks() const { return item.mark.to_vector(); }
    /// q of each weight, as the kernel keeps it.
    std::vector<double> codes() const {
        std::vector<double> codes = item.code.to_vector();
        for (double& code : codes) code += item.params.range.to_vector()[0];
        return codes;
    }
};

void track(const std::vector<CodeTrackItem>& items, double threshold = 0, double found_inf = 0) {
    cpu().track_codes(items, kM, threshold > 0 ? vector_of({threshold}, DType::f32) : Tensor(),
                      vector_of({found_inf}, DType::i32));
}

}  // namespace

TEST_CASE("kernels: track_codes counts a change against the latest change, also over steps without one",
          "[kernels]") {
    for_dtypes([](DType dtype, double) {
        Script script(5, 0.3, kTwoBits, dtype, false);
        // one column a weight: up and down; up, rest, down; up twice; rest; down, down, up
        const std::vector<std::vector<double>> steps = {
            {0, 0, -2, 1, 1}, {1, 1, -1, 1, 0}, {0, 1, -1, 1, -1}, {0, 1, 0, 1, -1}, {1, 0, 0, 1, 0}};
        const std::vector<std::vector<int>> oscillates = {
            {0, 0, 0, 0, 0}, {0, 0, 0, 0, 0}, {1, 0, 0, 0, 0}, {0, 0, 0, 0, 0}, {1, 1, 0, 0, 1}};
        const std::vector<std::vector<double>> marks = {
            {0, 0, 0, 0, 0}, {1, 1, 1, 0, 2}, {2, 1, 1, 0, 2}, {2, 1, 1, 0, 2}, {1, 2, 1, 0, 1}};
        std::vector<double> f(5, 0.0);
        for (size_t t = 0; t < steps.size(); ++t) {
            INFO("step " << t);
            script.set(steps[t]);
            const std::vector<double> w = script.item.w.to_vector();
            track({script.item});
            CHECK(script.codes() == steps[t]);
            CHECK(script.marks() == marks[t]);
            CHECK(script.item.w.to_vector() == w);
            for (size_t i = 0; i < f.size(); ++i) f[i] = 0.99 * f[i] + 0.01 * oscillates[t][i];
            CHECK(relative_error(script.item.frequency.to_vector(), f) <= 1e-6);
        }
        // by hand: 0.01 at step 2, then two steps of which the last adds 0.01
        CHECK(std::abs(script.item.frequency.to_vector()[0] - (0.01 * 0.99 * 0.99 + 0.01)) <= 1e-8);
    });
}

TEST_CASE("kernels: track_codes changes nothing in a step that was left out, and NaN keeps its code",
          "[kernels]") {
    Script script(2, 0.5, kTwoBits, DType::f32, false);
    for (const double code : {0.0, 1.0, 0.0}) {
        script.set({code, code});
        track({script.item});
    }
    const std::vector<double> f = script.item.frequency.to_vector();
    CHECK(f[0] > 0.0099);
    script.set({1, 1});
    track({script.item}, 0, 4);
    CHECK(script.codes() == std::vector<double>{0, 0});
    CHECK(script.item.frequency.to_vector() == f);
    script.set({kNaN, 1});
    track({script.item});
    CHECK(script.codes() == std::vector<double>{0, 1});
    CHECK(script.marks() == std::vector<double>{2, 1});
}

TEST_CASE("kernels: track_codes freezes a weight above the threshold at the mean of its codes", "[kernels]") {
    for_dtypes([](DType dtype, double tolerance) {
        // weight 0 goes 1 0 1 0 ..., weight 1 stays at 1; the other layer has codes of 8 bits
        Script two(2, 0.3, kTwoBits, dtype, true), eight(2, 0.7, {-128, 127}, dtype, true);
        double f = 0, mean = 1;
        int frozen_at = 0;
        for (int t = 0; t < 8; ++t) {
            INFO("step " << t);
            const double code = t % 2 == 0 ? 1 : 0;
            if (frozen_at == 0) {
                if (t > 0) {
                    mean += 0.01 * (code - mean);
                    f = 0.99 * f + (t > 1 ? 0.01 : 0.0);
                }
                if (f > 0.03) frozen_at = t;
            } else {
                f *= 0.99;
                mean += 0.01 * (1 - mean);  // the code that it keeps
            }
            two.set({code, 1});
            eight.set({code == 1 ? 127.0 : 121.0, -128});
            track({two.item, eight.item}, 0.03);
            CHECK(relative_error(two.item.frequency.to_vector(), {f, 0}) <= 1e-6);
            CHECK(std::abs(two.item.mean.to_vector()[0] - mean) <= 1e-6);
            CHECK(two.item.mean.to_vector()[1] == 1);
            CHECK(two.codes()[0] == (frozen_at > 0 ? 1 : code));
            CHECK((two.marks()[0] == 3) == (frozen_at > 0));
            CHECK(two.marks()[1] == 0);
            CHECK(eight.marks()[0] == two.marks()[0]);
            // 127 and 121 by turns, 0.01 of the way each time: near 127
            if (frozen_at > 0) CHECK(eight.codes()[0] == 127);
            // the latent weight lies in the middle of its bin, whatever the update made of it
            if (frozen_at > 0) {
                CHECK(relative_error({two.item.w.to_vector()[0]}, {0.3}) <= tolerance);
                CHECK(relative_error({eight.item.w.to_vector()[0]}, {0.7 * 127}) <= tolerance);
            }
        }
        CHECK(frozen_at == 5);  // 0.01 (1 + 0.99 + 0.9801 + 0.970299) = 0.0394, and 0.0297 the step before
    });
}

TEST_CASE("kernels: a frozen weight has its code at every step size and is never clipped", "[kernels]") {
    for_dtypes([](DType dtype, double) {
        Random random(3);
        for (const CodeRange range : {kTwoBits, CodeRange{-4, 3}, CodeRange{-8, 7}, CodeRange{-128, 127}}) {
            const int64_t n = range.count();
            Script script(n, 1.0, range, dtype, true);
            std::vector<double> all;
            for (int code = range.low; code <= range.high; ++code) all.push_back(code);
            script.set(all);
            track({script.item}, 0.5);
            std::fill_n(script.item.mark.data<uint8_t>(), n, static_cast<uint8_t>(CodeMark::frozen));
            int moved = 0;
            for (int k = 0; k < 400; ++k) {
                const double a = std::exp(3 * random.normal());
                cpu().fill(a, script.item.params.scale);
                cpu().copy(exact("noise" + std::to_string(k), Shape{n}, dtype), script.item.w);
                track({script.item}, 0.5);
                const Tensor q({n}, DType::i32), in = script.item.w.like();
                cpu().lsq_codes(script.item.w, script.item.params, q);
                CHECK(q.to_vector() == all);
                QuantParams params = script.item.params;
                params.grad_scale = vector_of({1}, dtype);
                cpu().lsq_backward(Tensor::full({n}, 1.0, dtype), script.item.w, params, in,
                                   params.scale.like(), {});
                CHECK(in.to_vector() == std::vector<double>(static_cast<size_t>(n), 1.0));
                const double step = script.item.params.scale.item();
                const Tensor exact_product = vector_of({step * range.high}, dtype);
                moved += script.item.w.to_vector().back() != exact_product.item() ? 1 : 0;
            }
            CHECK((moved > 0) == (range.high > 1));  // 7 a / a may be above 7
        }
        // a step below its floor counts as the floor, as it does everywhere
        Script small(1, 1.0, kTwoBits, dtype, true);
        small.set({1});
        track({small.item}, 0.5);
        small.item.mark.data<uint8_t>()[0] = static_cast<uint8_t>(CodeMark::frozen);
        cpu().fill(1e-7, small.item.params.scale);
        track({small.item}, 0.5);
        CHECK(relative_error(small.item.w.to_vector(), {kLeastStep}) <= 1e-6);
    });
}

TEST_CASE("kernels: track_codes knows steps of groups and codes of one bit", "[kernels]") {
    for_dtypes([](DType dtype, double) {
        // (4, 6): two groups of three columns, steps 1 and 0.25
        Script heads(24, 1.0, {-8, 7}, dtype, false);
        heads.item.params = kernel_params(vector_of({1, 0.25}, dtype), {}, CodeRange{-8, 7}, {}, 3);
        cpu().fill(1.5, heads.item.w);
        track({heads.item});
        std::vector<double> expected;
        for (int i = 0; i < 24; ++i) expected.push_back(i % 6 < 3 ? 2 : 6);
        CHECK(heads.codes() == expected);

        Script signs(4, 1.0, {-1, 1}, dtype, false);
        signs.item.params = {};
        for (const double sign : {1.0, -1.0, 1.0}) {
            cpu().copy(vector_of({sign * 0.3, 0.2, 0, -sign}, dtype), signs.item.w);
            track({signs.item});
            CHECK(signs.item.code.to_vector() == std::vector<double>{1 + sign, 2, 1, 1 - sign});
        }
        CHECK(relative_error(signs.item.frequency.to_vector(), {0.01, 0, 0, 0.01}) <= 1e-6);
        CHECK_THROWS_AS(track({signs.item}, 0.5), Error);
    });
}

TEST_CASE("kernels: track_codes gives the same bits for any number of threads and weights at once",
          "[kernels]") {
    const auto run = [](int threads, bool together) {
        set_threads(threads);
        std::vector<Script> scripts;
        for (const int64_t n : {1, 31, 16384, 40001})
            scripts.emplace_back(n, 0.3, CodeRange{-8, 7}, DType::f32, true);
        std::vector<double> all;
        for (int t = 0; t < 12; ++t) {
            std::vector<CodeTrackItem> items;
            for (Script& script : scripts) {
                const std::string name = concat("w", t, "/", script.item.w.numel());
                cpu().copy(exact(name, script.item.w.shape(), DType::f32, 0.3), script.item.w);
                items.push_back(script.item);
            }
            if (together) {
                track(items, 0.03);
            } else {
                for (const CodeTrackItem& item : items) track({item}, 0.03);
            }
        }
        for (const Script& script : scripts) {
            const CodeTrackItem& item = script.item;
            for (const Tensor& t : {item.w, item.code, item.mark, item.frequency, item.mean}) {
                for (const double value : t.to_vector()) all.push_back(value);
            }
        }
        return all;
    };
    const int before = threads();
    const std::vector<double> one = run(1, true);
    CHECK(run(3, true) == one);
    CHECK(run(2, false) == one);
    set_threads(before);
}

TEST_CASE("kernels: clear_frozen takes the gradient of frozen weights alone", "[kernels]") {
    for_dtypes([](DType dtype, double) {
        const Tensor mark = bytes_of(5, CodeMark::none), gradient = vector_of({1, 2, kNaN, 4, 5}, dtype);
        const CodeMark marks[] = {CodeMark::up, CodeMark::frozen, CodeMark::frozen, CodeMark::unseen,
                                  CodeMark::down};
        for (size_t i = 0; i < 5; ++i) mark.data<uint8_t>()[i] = static_cast<uint8_t>(marks[i]);
        cpu().clear_frozen({{gradient, mark}});
        CHECK(gradient.to_vector() == std::vector<double>{1, 0, 0, 4, 5});
    });
}
