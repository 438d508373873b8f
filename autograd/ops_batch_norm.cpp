// Batch normalization with ReLU behind it, over the batch of one process or of several.
#include "autograd/linear.h"
#include "autograd/trace.h"
#include "engine/communicator.h"

namespace vvtq::autograd {

using engine::Communicator;
using engine::kernels;
using engine::Shape;

namespace {

/// The moments of x over all its rows, here and in the other processes.
void find_moments(const Tensor& x, Communicator* processes, const Tensor& mean, const Tensor& variance) {
    const auto& kernel = kernels(x.device());
    if (processes == nullptr) return kernel.column_moments(x, mean, variance);
    const int64_t channels = mean.numel();
    const Tensor own({2, channels}, mean.dtype(), mean.device());
    const Tensor all({processes->size(), 2, channels}, mean.dtype(), mean.device());
    kernel.column_moments(x, own.slice(0, 1), own.slice(1, 2));
    processes->all_gather(own, all);
    processes->wait();
    kernel.merge_moments(all, mean, variance);
}

}  // namespace

Variable batch_norm_relu(const Variable& x, const Variable& gamma, const Variable& beta, double eps,
                         const RunningMoments& running, bool training, Communicator* processes) {
    // x: (..., C), gamma, beta: (C)
    const Tensor& value = x.value();
    const Shape channels({value.shape().cols()});
    VVTQ_CHECK(gamma.shape() == channels && beta.shape() == channels && running.mean.shape() == channels,
               "x ", value.shape().str(), ", gamma ", gamma.shape().str());
    if (!training || !is_recording()) processes = nullptr;
    const int64_t rows = value.shape().rows() * (processes != nullptr ? processes->size() : 1);
    const auto& kernel = kernels(value.device());
    Tensor mean = running.mean, variance = running.variance;
    if (training) {
        constexpr double kMomentum = 0.1;
        mean = running.mean.like();
        variance = running.variance.like();
        find_moments(value, processes, mean, variance);
        kernel.update_running_stats(mean, variance, rows, kMomentum, running.mean, running.variance,
                                    running.count);
    }
    const Tensor y = value.like();
    kernel.batch_norm_relu(value, mean, variance, gamma.value(), beta.value(), eps, y);
    const double share = training ? 1.0 / static_cast<double>(rows) : 0.0;
    tell_trace([&] { return OpArguments{{"eps", eps}, {"mean", mean}, {"variance", variance}}; });
    return record("batch_norm_relu", y, {x, gamma, beta},
                  [x = value, gamma = gamma.value(), beta = beta.value(), mean, variance, eps, share,
                   processes](const Tensor& dy, Gradients& d) {
                      const auto& backward = kernels(dy.device());
                      const Shape columns = gamma.shape();
                      const Tensor own({2, gamma.numel()}, gamma.dtype(), gamma.device());
                      const auto row = [&](const Tensor& sums, int64_t i) {
                          return sums.slice(i, i + 1).reshape(columns);
                      };
                      backward.batch_norm_relu_sums(dy, x, mean, variance, gamma, beta, eps, row(own, 0),
                                                    row(own, 1));
                      Tensor all = own;
                      if (processes != nullptr) {
                          all = own.clone();
                          processes->all_reduce({all});
                          processes->wait();
                      }
                      const Tensor dx = x.like();
                      backward.batch_norm_relu_backward(dy, x, mean, variance, gamma, beta, eps, row(all, 0),
                                                        row(all, 1), share, dx);
                      d.set(0, dx);
                      d.set(1, row(own, 0));
                      d.set(2, row(own, 1));
                  });
}

}  // namespace vvtq::autograd
