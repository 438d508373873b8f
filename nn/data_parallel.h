// data_parallel: a training step whose batch is cut into parts: its gradients and losses are the mean over
// the parts (specification section 10).
#pragma once

#include <vector>

#include "nn/module.h"

namespace vvtq::nn {

struct DataParallelOptions {
    engine::Communicator* processes = nullptr;  // null: this process alone
    /// 1: the batch counts as a whole, each process has an equal part of it, and sums may be rounded
    /// differently for another number of processes. More: the batch is cut into so many shards, each process
    /// has an equal number of them, and all results are the same bits for any number of processes.
    int64_t shards = 1;
    bool reduce_bf16 = false;  // gradients are sent rounded to bf16; one shard only
    int64_t buckets = 1;  // pieces in which gradients are sent; with more than one shard there may be more
};

/// For each step and each local shard `share`, a forward pass, and `backward`; then `reduce`. All processes
/// do the same, with the same parameters.
class DataParallel {
  public:
    /// `master` is the dtype of gradients. Throws Error(Fault::internal) where shards and processes do not
    /// divide, Error(Fault::input) for reduce_bf16 beside f64.
    DataParallel(const DataParallelOptions& options, engine::Device device, engine::DType master);

    /// How many shards this process carries, one after the other: 1 with one shard.
    int64_t local_shards() const { return local_shards_; }
    /// Parts of the batch over which losses and gradients are averaged.
    int64_t parts() const { return local_shards_ * processes(); }
    /// For Module::share_batch, before the forward pass of a local shard.
    BatchShare share(int64_t shard) const;

    /// Walks back from the loss of local shard `shard` and takes the gradients of `leaves` away. From the
    /// second step on a bucket is sent as soon as its gradients are there. `sums` (n) f64 are counts and the
    /// like, to be added up. Leaves without a gradient must lack it in every shard and step.
    void backward(int64_t shard, const Variable& loss, std::vector<Variable> leaves, const Tensor& sums);
    /// Gives the leaves of the latest step the mean of their gradients over all parts, and returns the total
    /// (n) of the sums, which stays valid until the next step's.
    Tensor reduce();
    /// Bytes that a process sends in a step, before the communicator multiplies them.
    size_t bytes() const;

  private:
    struct Bucket {
        std::vector<size_t> leaves;
        std::vector<int64_t> begins;  // of their gradients
        int64_t size = 0;             // elements
        Tensor parts;                 // (local shards, size)
        Tensor mean;                  // (size)
        int64_t missing = 0;          // gradients that this backward pass has still to bring
        bool sent = false;            // in this step
    };
    bool alone() const { return options_.processes == nullptr && options_.shards == 1; }
    int processes() const { return options_.processes == nullptr ? 1 : options_.processes->size(); }
    void make_sums(int64_t count);
    /// The buckets, from the gradients that the first backward pass left.
    void lay_out();
    void pack(int64_t shard, const Bucket& bucket);
    /// Counts a gradient of a leaf, and sends its bucket where it was the last one of it.
    void arrived(size_t leaf);
    /// total = scale times the sum of the rows of all processes' `parts`; `all` is space for all rows.
    void add_up(const Tensor& parts, const Tensor& all, double scale, const Tensor& total);

    DataParallelOptions options_;
    engine::Device device_;
    engine::DType master_;
    int64_t local_shards_;
    std::vector<Variable> leaves_;
    std::vector<int64_t> arrivals_;  // of the gradients of each leaf, in the first backward pass
    std::vector<size_t> bucket_of_;  // each leaf
    std::vector<Bucket> buckets_;
    Tensor sums_, total_;              // (local shards, n), (n)
    Tensor gathered_, gathered_sums_;  // of all shards: space for the largest bucket; (shards, n)
};

}  // namespace vvtq::nn
