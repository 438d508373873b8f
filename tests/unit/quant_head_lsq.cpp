// Head-wise steps: whose values get which step, where they start, and models that train with them.
#include <cmath>

#include "autograd/ops.h"
#include "quant/attach.h"
#include "quant/calibrate.h"
#include "quant/lsq.h"
#include "tests/unit/quant_support.h"

namespace vvtq::quant {

namespace {

using engine::DType;
using engine::Tensor;
using nn::Variable;
using tests::small_model;
using tests::small_pictures;

/// x whose head h has values of size h + 1.
Tensor growing(const engine::Shape& shape, int64_t heads, int64_t inner) {
    std::vector<double> values;
    for (int64_t i = 0; i < shape.numel(); ++i) {
        const auto size = static_cast<double>(i / inner % heads + 1);
        values.push_back(size * std::sin(1.0 + 0.7 * static_cast<double>(i % inner + i / (inner * heads))));
    }
    return Tensor::from(values, shape, DType::f64);
}

std::vector<double> steps_of(QuantizerOptions options, int64_t heads, bool columns, const Tensor& x) {
    options.step_heads = heads;
    options.head_columns = columns;
    Lsq quantizer(options);
    quantizer(Variable(x));
    return quantizer.alpha().value().to_vector();
}

}  // namespace

TEST_CASE("each head's step starts from its own values") {
    const QuantizerOptions activation{.bits = 3, .dtype = DType::f64};
    const QuantizerOptions weight{.bits = 3, .weight = true, .dtype = DType::f64};
    const std::vector<std::vector<double>> found = {
        steps_of(activation, 3, false, growing({2, 5, 12}, 3, 4)),
        steps_of(activation, 3, false, growing({2, 3, 4, 4}, 3, 16)),
        steps_of(weight, 3, false, growing({6, 5}, 3, 10)),
        steps_of(weight, 3, true, growing({5, 6}, 3, 2)),
    };
    for (const std::vector<double>& steps : found) {
        REQUIRE(steps.size() == 3);
        CHECK(steps[1] == Approx(2 * steps[0]));
        CHECK(steps[2] == Approx(3 * steps[0]));
    }
}

TEST_CASE("with equal heads the values are those of one step") {
    const Tensor x = growing({2, 5, 4}, 1, 4);
    std::vector<double> twice;
    const std::vector<double> once = x.to_vector();
    for (size_t row = 0; row < once.size(); row += 4) {
        for (int copy = 0; copy < 2; ++copy) {
            twice.insert(twice.end(), once.begin() + static_cast<std::ptrdiff_t>(row),
                         once.begin() + static_cast<std::ptrdiff_t>(row) + 4);
        }
    }
    const Tensor both = Tensor::from(twice, {2, 5, 8}, DType::f64);
    Lsq by_head({.bits = 3, .dtype = DType::f64, .step_heads = 2});
    Lsq whole({.bits = 3, .dtype = DType::f64});
    // the mean of |x| is summed in another order
    CHECK(tests::relative_error(by_head(Variable(both)).value().to_vector(),
                                whole(Variable(both)).value().to_vector()) <= 1e-14);
}

TEST_CASE("a model with head-wise steps trains at every width") {
    for (const int bits : {1, 2, 4}) {
        const auto model = small_model(DType::f64);
        attach(*model, {.weights = bits, .activations = bits, .head_wise = true});
        calibrate_weights(*model);
        calibrate_activations(*model, small_pictures(DType::f64));
        const Variable logits = model->forward(small_pictures(DType::f64), nn::random_key(1));
        autograd::soft_cross_entropy(logits, Tensor::full({2, 5}, 0.2, DType::f64)).backward();
        int by_head = 0;
        for (const nn::NamedParameter& p : model->parameters()) {
            INFO(p.name << " at " << bits << " bits");
            REQUIRE(p.parameter.grad().defined());
            const Tensor bad(engine::Shape{1}, DType::i64);
            engine::kernels(bad.device()).count_not_finite(p.parameter.grad(), bad);
            CHECK(bad.item() == 0);
            by_head += p.name.ends_with(".alpha") && p.parameter.shape().numel() == 3;
        }
        // q, k, v, attention, output and four projections in two blocks
        CHECK(by_head == (bits == 1 ? 0 : 2 * 9));
    }
}

}  // namespace vvtq::quant
