// Binary: one scale per what, and the gradient's window.
#include <cmath>

#include "quant/binary.h"
#include "tests/unit/quant_support.h"

namespace vvtq::quant {

namespace {

using engine::DType;
using engine::Shape;
using engine::Tensor;
using nn::Variable;
using tests::filled;

/// y_i / x_i's sign must be the mean of |x| over all elements of the same group.
void check_groups(const Tensor& x, const Tensor& y, const std::vector<int64_t>& group) {
    const std::vector<double> values = x.to_vector(), got = y.to_vector();
    std::vector<double> sum(values.size()), count(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
        sum[static_cast<size_t>(group[i])] += std::fabs(values[i]);
        count[static_cast<size_t>(group[i])] += 1;
    }
    REQUIRE(got.size() == values.size());
    for (size_t i = 0; i < values.size(); ++i) {
        const double scale = sum[static_cast<size_t>(group[i])] / count[static_cast<size_t>(group[i])];
        CHECK(got[i] == Approx(values[i] > 0 ? scale : -scale).epsilon(1e-12));
    }
}

/// The group of every element (b, i, j, k) of a shape seen as four sizes.
template <typename Group>
std::vector<int64_t> groups(const std::vector<int64_t>& sizes, Group group) {
    std::vector<int64_t> found;
    for (int64_t b = 0; b < sizes[0]; ++b)
        for (int64_t i = 0; i < sizes[1]; ++i)
            for (int64_t j = 0; j < sizes[2]; ++j)
                for (int64_t k = 0; k < sizes[3]; ++k) found.push_back(group(b, i, j, k));
    return found;
}

}  // namespace

TEST_CASE("one bit: a weight has one scale") {
    for (const Shape& shape : {Shape{6, 4}, Shape{6, 3, 2, 2}}) {
        const Tensor w = filled("weight", shape, 0.7);
        Binary q({.weight = true});
        const Tensor y = q(Variable(w)).value();
        CHECK(y.shape() == shape);
        check_groups(w, y, std::vector<int64_t>(static_cast<size_t>(shape.numel()), 0));
    }
}

TEST_CASE("one bit: an activation has one scale per sample") {
    for (const Shape& shape : {Shape{3, 5, 4}, Shape{3, 20}}) {
        const Tensor x = filled("activation", shape, 1.6);
        Binary q({});
        check_groups(x, q(Variable(x)).value(),
                     groups({3, 1, 1, 20}, [](int64_t b, int64_t, int64_t, int64_t) { return b; }));
    }
}

TEST_CASE("one bit: values of heads have one scale per sample and index within the head") {
    // (B, N, H D): columns h D + d of one d share a scale
    const Tensor x = filled("heads", {2, 5, 12}, 1.6);
    Binary q({.heads = 3});
    check_groups(x, q(Variable(x)).value(),
                 groups({2, 5, 3, 4}, [](int64_t b, int64_t, int64_t, int64_t d) { return b * 4 + d; }));
    // (B, H, N, M): one per column
    const Tensor p = filled("probabilities", {2, 3, 5, 5}, 0.5, DType::f64, 0.5);
    check_groups(p, q(Variable(p)).value(),
                 groups({2, 3, 5, 5}, [](int64_t b, int64_t, int64_t, int64_t m) { return b * 5 + m; }));
}

TEST_CASE("one bit: the sign of zero is zero, the gradient passes where |x| <= 1") {
    Binary q({});
    CHECK(q.parameters().empty());
    Variable x(Tensor::from({-1.5, -1.0, 0.0, 0.5, 1.0, 1.01}, {1, 2, 3}, DType::f64), true);
    const Variable y = q(x);
    const double s = (1.5 + 1 + 0 + 0.5 + 1 + 1.01) / 6;
    const std::vector<double> expected = {-s, -s, 0, s, s, s};
    const std::vector<double> got = y.value().to_vector();
    for (size_t i = 0; i < got.size(); ++i) CHECK(got[i] == Approx(expected[i]).epsilon(1e-12));
    y.backward(Tensor::from({1, 2, 3, 4, 5, 6}, {1, 2, 3}, DType::f64));
    CHECK(x.grad().to_vector() == std::vector<double>{0, 2, 3, 4, 5, 0});
}

TEST_CASE("one bit: shapes that heads do not fit are programming errors") {
    Binary q({.heads = 3});
    for (const Shape& shape : {Shape{2, 5, 10}, Shape{2, 4, 5, 5}, Shape{6}}) {
        tests::message_of(engine::Fault::internal, [&] { q(Variable(filled("bad", shape, 1.0))); });
    }
}

}  // namespace vvtq::quant
