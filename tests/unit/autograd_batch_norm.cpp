// Batch normalization over several processes against one process with the joined batch, in f64.
#include "autograd/ops.h"
#include "tests/golden_inputs.h"
#include "tests/rank_threads.h"
#include "tests/unit/kernel_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using autograd::Variable;
using engine::Communicator;
using engine::DType;
using engine::Tensor;

namespace {

constexpr double kEps = 1e-5;
constexpr int64_t kImages = 2, kPositions = 4, kChannels = 5;  // of one process

struct Result {
    std::vector<double> y, dx, dgamma, dbeta, running;
};

/// Inputs of `size` processes, whose outputs keep clear of ReLU's kink.
struct Inputs {
    engine::Shape shape;
    std::vector<double> x, dy, gamma, beta;

    explicit Inputs(int size)
        : shape{size * kImages, kPositions, kChannels},
          x(fill("x", shape.numel(), 1.0, 0.4)),
          dy(fill("dy", shape.numel(), 1.0)),
          gamma(fill("gamma", kChannels, 0.3, 1.0)),
          beta(fill("beta", kChannels, 0.1)) {
        for (size_t c = 0; c < beta.size(); ++c) beta[c] += c % 3 == 1 ? -4.0 : 4.0;
        dy.resize(x.size());
        for (size_t i = 0; i < x.size(); ++i) x[i] += 0.2 * static_cast<double>(i / kPositions / kChannels);
    }
    /// The images of one rank, or of all of them where null.
    Tensor part(const std::vector<double>& values, const Communicator* c) const {
        const Tensor all = Tensor::from(values, shape, DType::f64);
        return c != nullptr ? all.slice(c->rank() * kImages, (c->rank() + 1) * kImages).clone() : all;
    }
    Result run(Communicator* c, bool training = true) const {
        const Variable vx(part(x, c), true), vgamma(vector_of(gamma, DType::f64), true),
            vbeta(vector_of(beta, DType::f64), true);
        const autograd::RunningMoments running{Tensor::full({kChannels}, 0.1, DType::f64),
                                               Tensor::full({kChannels}, 0.4, DType::f64),
                                               Tensor::zeros({1}, DType::f64)};
        const Variable y = autograd::batch_norm_relu(vx, vgamma, vbeta, kEps, running, training, c);
        y.backward(part(dy, c));
        Result result{y.value().to_vector(), vx.grad().to_vector(), vgamma.grad().to_vector(),
                      vbeta.grad().to_vector(), running.mean.to_vector()};
        for (const double value : running.variance.to_vector()) result.running.push_back(value);
        return result;
    }
};

void append(std::vector<double>& to, const std::vector<double>& from) {
    to.insert(to.end(), from.begin(), from.end());
}
void add(std::vector<double>& to, const std::vector<double>& from) {
    to.resize(from.size());
    for (size_t i = 0; i < from.size(); ++i) to[i] += from[i];
}

void check_equal(const std::vector<double>& a, const std::vector<double>& b) {
    CHECK(relative_error(a, b) <= 1e-12);
}

}  // namespace

TEST_CASE("batch norm over processes is that of the joined batch", "[communicator]") {
    if (gloo_missing()) return;
    for (const int size : {1, 2, 3}) {
        INFO(size << " processes");
        const Inputs inputs(size);
        std::vector<Result> parts(static_cast<size_t>(size));
        const auto errors =
            run_ranks(size, [&](Communicator& c) { parts[static_cast<size_t>(c.rank())] = inputs.run(&c); });
        for (const std::string& error : errors) CHECK(error == "");
        const Result joined = inputs.run(nullptr);
        Result together;
        for (const Result& part : parts) {
            append(together.y, part.y);
            append(together.dx, part.dx);
            add(together.dgamma, part.dgamma);
            add(together.dbeta, part.dbeta);
            check_equal(part.running, joined.running);
            CHECK(part.running == parts[0].running);
        }
        check_equal(together.y, joined.y);
        check_equal(together.dx, joined.dx);
        check_equal(together.dgamma, joined.dgamma);
        check_equal(together.dbeta, joined.dbeta);
    }
}

TEST_CASE("batch norm over processes: gradients are those of central differences", "[communicator]") {
    if (gloo_missing()) return;
    constexpr double kStep = 1e-5;
    const Inputs inputs(2);
    std::vector<std::vector<double>> differences(2);
    std::vector<double> dx, dgamma, dbeta;
    const auto run = [&](Communicator& c) {
        // sum dy y over the processes, computed by both of them
        const auto objective = [&](const Inputs& changed) {
            const std::vector<double> y = changed.run(&c).y, dy = changed.part(changed.dy, &c).to_vector();
            double own = 0;
            for (size_t i = 0; i < y.size(); ++i) own += dy[i] * y[i];
            const Tensor total = vector_of({own}, DType::f64);
            c.all_reduce({total});
            c.wait();
            return total.item();
        };
        for (std::vector<double> Inputs::*input : {&Inputs::x, &Inputs::gamma, &Inputs::beta}) {
            for (size_t i = 0; i < (inputs.*input).size(); ++i) {
                Inputs low = inputs, high = inputs;
                (low.*input)[i] -= kStep;
                (high.*input)[i] += kStep;
                differences[static_cast<size_t>(c.rank())].push_back((objective(high) - objective(low)) /
                                                                     (2 * kStep));
            }
        }
    };
    for (const std::string& error : run_ranks(2, run)) CHECK(error == "");
    CHECK(differences[0] == differences[1]);
    std::vector<Result> parts(2);
    run_ranks(2, [&](Communicator& c) { parts[static_cast<size_t>(c.rank())] = inputs.run(&c); });
    std::vector<double> gradients = parts[0].dx;
    append(gradients, parts[1].dx);
    for (std::vector<double> Result::*sum : {&Result::dgamma, &Result::dbeta}) {
        std::vector<double> total = parts[0].*sum;
        add(total, parts[1].*sum);
        append(gradients, total);
    }
    CHECK(relative_error(gradients, differences[0]) <= 1e-8);
}

TEST_CASE("batch norm talks to no process in evaluation, or where nothing is recorded", "[communicator]") {
    if (gloo_missing()) return;
    // two processes of which one computes
    const Inputs inputs(2);
    const auto errors = run_ranks(2, [&](Communicator& c) {
        if (c.rank() == 1) return;
        inputs.run(&c, false);
        const autograd::NoGrad off;
        const Variable gamma(vector_of(inputs.gamma, DType::f64)), beta(vector_of(inputs.beta, DType::f64));
        const autograd::RunningMoments running{Tensor::zeros({kChannels}, DType::f64),
                                               Tensor::full({kChannels}, 1, DType::f64),
                                               Tensor::zeros({1}, DType::f64)};
        autograd::batch_norm_relu(Variable(inputs.part(inputs.x, &c)), gamma, beta, kEps, running, true, &c);
    });
    for (const std::string& error : errors) CHECK(error == "");
}
