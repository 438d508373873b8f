// The worked example of docs/method.md, number by number.
#include "autograd/ops.h"
#include "quant/calibrate.h"
#include "quant/lsq.h"
#include "tests/quant_params.h"
#include "tests/unit/quant_support.h"

namespace vvtq::quant {

namespace {

using engine::DType;
using engine::Tensor;
using nn::Variable;

void check_near(const std::vector<double>& got, const std::vector<double>& expected, double half_digit) {
    REQUIRE(got.size() == expected.size());
    for (size_t i = 0; i < got.size(); ++i)
        CHECK(got[i] == Approx(expected[i]).epsilon(0).margin(half_digit));
}

Tensor weights() { return Tensor::from({-0.9, -0.35, -0.1, 0.2, 0.45, 0.8}, {6}, DType::f64); }

}  // namespace

TEST_CASE("worked example: the weights") {
    Lsq q({.bits = 2, .weight = true, .dtype = DType::f64});
    const Variable w(weights(), true);
    const Variable y = q(w);
    check_near({q.step()}, {0.71667}, 5e-6);
    check_near(y.value().to_vector(), {-0.71667, 0, 0, 0, 0.71667, 0.71667}, 5e-6);
    check_near({q.grad_scale(w.value()).item()}, {0.59761}, 5e-6);
    y.backward(Tensor::from({1, -2, 1, 0.5, -1, 2}, {6}, DType::f64));
    check_near(w.grad().to_vector(), {1, -2, 1, 0.5, -1, 0}, 1e-12);
    check_near({q.alpha().grad().item()}, {0.54202}, 5e-6);
    const Inspection seen = q.inspect(w.value());
    CHECK(seen.codes == std::vector<int>{-1, 0, 0, 0, 1, 1});
    CHECK(seen.occupancy == std::vector<int64_t>{0, 1, 3, 2});
    check_near({seen.clipped_share, seen.signal_to_noise_db}, {1.0 / 6, 8.077}, 5e-4);
    CHECK(occupancy_chart(seen, q.range(), 12) ==
          "  -2         0\n  -1         1  ####\n   0         3  ############\n   1         2  ########\n");
}

TEST_CASE("worked example: the regularizer") {
    const Variable alpha(Tensor::full({1}, 2.15 / 3, DType::f64));
    const auto range = engine::CodeRange::signed_bits(2);
    const Variable term =
        autograd::quantize_weights(
            {{Variable(weights()), tests::quant_params(alpha, {}, range), range.count()}}, DType::f64, true)
            .regularizer;
    check_near({term.value().item()}, {0.157593}, 5e-7);
}

TEST_CASE("worked example: the activation") {
    const Variable x(Tensor::from({-0.15, 0.1, 0.7, 1.9}, {4}, DType::f64));
    Lsq q({.bits = 2, .is_signed = false, .offset = true, .dtype = DType::f64});
    check_near(q(x).value().to_vector(), {0, 0, 0, 1.425}, 1e-12);
    check_near({q.step()}, {1.425}, 1e-12);
    check_near({q.inspect(x.value()).clipped_share}, {0.25}, 1e-12);
    q.set_step(1.425, -0.17);
    check_near(q(x).value().to_vector(), {-0.17, -0.17, 1.255, 1.255}, 1e-12);
    check_near({q.inspect(x.value()).clipped_share}, {0}, 1e-12);
}

}  // namespace vvtq::quant
