// communicator: sums and copies of tensors over the processes of a job, one process a device. Gloo carries
// them between CPUs, NCCL between GPUs.
//
// Every process must make the same calls in the same order, with tensors of the same sizes and dtypes.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/tensor.h"

namespace vvtq::engine {

/// Gives the texts of all processes, in the order of ranks, from the text of this one. All processes must
/// call it.
using ExchangeText = std::function<std::vector<std::string>(const std::string& own)>;

/// Operations are enqueued: they see what earlier kernels have written, and run beside kernels that are
/// enqueued behind them, until `wait`. So the tensors must stay as they are, and alive, until then. On the
/// CPU an operation is done when its call returns. On a GPU all of them can be recorded in a graph, which
/// must be destroyed before the communicator. Tensors are contiguous, on the communicator's device.
class Communicator {
  public:
    virtual ~Communicator() = default;
    int rank() const { return rank_; }
    int size() const { return size_; }
    /// "NCCL 2.28.9", "Gloo".
    virtual std::string description() const = 0;

    /// Of each tensor x: x = the sum of the x of all processes; f32, f64 or bf16. The same bits on all of
    /// them. Which order the terms are added in depends on the sizes alone.
    virtual void all_reduce(const std::vector<Tensor>& tensors) = 0;
    /// all = the `part` of rank 0, 1, ..., one behind the other; numel of `all` is that of `part` times size;
    /// any dtype.
    virtual void all_gather(const Tensor& part, const Tensor& all) = 0;
    /// x = that of rank `root`; any dtype.
    virtual void broadcast(const Tensor& x, int root) = 0;
    /// Kernels that are enqueued from here on see the results.
    virtual void wait() = 0;

  protected:
    Communicator(int rank, int size) : rank_(rank), size_(size) {}

  private:
    int rank_, size_;
};

struct CommunicatorOptions {
    int rank = 0;
    int size = 1;
    ExchangeText exchange;  // with which the processes find each other
    double timeout = 120;   // seconds that Gloo waits for the others
    std::string address;    // of this machine, as the others reach it; empty: that of its host name
};

/// Connects the processes for tensors of `device`: by Gloo on the CPU, by NCCL on GPUs. Throws
/// Error(Fault::input) where this build lacks the library, Error(Fault::run) where they cannot be connected.
/// Operations throw Error(Fault::run) where another process is gone or does not answer in time.
std::unique_ptr<Communicator> make_communicator(Device device, const CommunicatorOptions& options);

}  // namespace vvtq::engine
