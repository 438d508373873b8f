#include "nn/data_parallel.h"

#include <algorithm>
#include <unordered_map>

#include "engine/kernels.h"

namespace vvtq::nn {

namespace {

constexpr int64_t kAlign = 64;                       // elements, so that kernels find gradients aligned
constexpr int64_t kMostGathered = int64_t{8} << 20;  // elements of a shard that are gathered at once

int64_t aligned(int64_t size) { return (size + kAlign - 1) / kAlign * kAlign; }

}  // namespace

DataParallel::DataParallel(const DataParallelOptions& options, engine::Device device, engine::DType master)
    : options_(options), device_(device), master_(master), local_shards_(1) {
    VVTQ_CHECK(options.shards >= 1 && options.buckets >= 1, options.shards, " shards, ", options.buckets,
               " buckets");
    VVTQ_CHECK(options.shards == 1 || (options.shards % processes() == 0 && !options.reduce_bf16),
               options.shards, " shards for ", processes(), " processes");
    if (options.reduce_bf16 && master == engine::DType::f64) {
        engine::input_error(
            "`reduce_precision` bf16: gradients of `precision` fp64 are sent as they are; "
            "leave it out");
    }
    if (options.shards > 1) local_shards_ = options.shards / processes();
}

BatchShare DataParallel::share(int64_t shard) const {
    if (options_.shards == 1) return {options_.processes, true};
    const bool first = shard == 0 && (options_.processes == nullptr || options_.processes->rank() == 0);
    return {nullptr, first};
}

void DataParallel::make_sums(int64_t count) {
    sums_ = Tensor({local_shards_, count}, engine::DType::f64, device_);
    total_ = sums_.slice(0, 1).reshape({count});
    if (options_.shards == 1) return;
    total_ = Tensor({count}, engine::DType::f64, device_);
    if (processes() > 1) gathered_sums_ = Tensor({options_.shards, count}, engine::DType::f64, device_);
}

void DataParallel::lay_out() {
    std::vector<size_t> order;  // the last layers' gradients arrive first
    int64_t all = 0;
    for (size_t i = leaves_.size(); i-- > 0;) {
        if (!leaves_[i].grad().defined()) continue;
        order.push_back(i);
        all += aligned(leaves_[i].shape().numel());
    }
    bucket_of_.resize(leaves_.size());
    int64_t most = (all + options_.buckets - 1) / options_.buckets;
    if (options_.shards > 1) most = std::min(most, kMostGathered);
    for (const size_t i : order) {
        if (buckets_.empty() || buckets_.back().size >= most) buckets_.emplace_back();
        Bucket& bucket = buckets_.back();
        bucket.leaves.push_back(i);
        bucket.begins.push_back(bucket.size);
        bucket.size += aligned(leaves_[i].shape().numel());
        bucket_of_[i] = buckets_.size() - 1;
    }
    int64_t largest = 0;
    for (Bucket& bucket : buckets_) {
        const engine::DType sent = options_.reduce_bf16 ? engine::DType::bf16 : master_;
        bucket.parts = Tensor({local_shards_, bucket.size}, sent, device_);
        const bool in_place = options_.shards == 1 && sent == master_;
        bucket.mean =
            in_place ? bucket.parts.reshape({bucket.size}) : Tensor({bucket.size}, master_, device_);
        largest = std::max(largest, bucket.size);
    }
    if (options_.shards > 1 && processes() > 1) {
        gathered_ = Tensor({options_.shards, largest}, master_, device_);
    }
}

void DataParallel::pack(int64_t shard, const Bucket& bucket) {
    std::vector<engine::PackItem> items;
    for (size_t i = 0; i < bucket.leaves.size(); ++i) {
        const Variable& leaf = leaves_.at(bucket.leaves[i]);
        VVTQ_CHECK(leaf.grad().defined(), "a gradient is missing that was there in the first step");
        items.push_back({leaf.grad(), bucket.begins[i]});
    }
    const double scale = options_.shards == 1 ? 1.0 / processes() : 1.0;
    engine::kernels(device_).pack(items, scale, bucket.parts.slice(shard, shard + 1).reshape({bucket.size}));
}

void DataParallel::arrived(size_t leaf) {
    if (buckets_.empty()) {  // the first pass
        ++arrivals_[leaf];
        return;
    }
    Bucket& bucket = buckets_[bucket_of_[leaf]];
    if (--bucket.missing > 0) return;
    const bool last = std::all_of(buckets_.begin(), buckets_.end(),
                                  [&](const Bucket& other) { return other.sent || &other == &bucket; });
    if (last) return;  // it goes with the sums
    pack(0, bucket);
    options_.processes->all_reduce({bucket.parts});
    bucket.sent = true;
}

void DataParallel::backward(int64_t shard, const Variable& loss, std::vector<Variable> leaves,
                            const Tensor& sums) {
    if (!sums_.defined()) make_sums(sums.numel());
    engine::kernels(device_).copy(sums, sums_.slice(shard, shard + 1).reshape(sums.shape()));
    if (alone()) return loss.backward();  // the mean of the gradients is what they are
    leaves_ = std::move(leaves);
    arrivals_.resize(leaves_.size());
    for (Bucket& bucket : buckets_) {
        bucket.sent = false;
        bucket.missing = 0;
        for (const size_t leaf : bucket.leaves) bucket.missing += arrivals_[leaf];
    }
    if (options_.shards == 1) {
        std::unordered_map<const void*, size_t> index;
        for (size_t i = 0; i < leaves_.size(); ++i) index[leaves_[i].id()] = i;
        const autograd::LeafWatch watch([&](const void* leaf) {
            const auto at = index.find(leaf);
            if (at != index.end()) arrived(at->second);
        });
        loss.backward();
    } else {
        loss.backward();
    }
    if (buckets_.empty()) lay_out();
    for (const Bucket& bucket : buckets_) {
        if (!bucket.sent) pack(shard, bucket);
    }
    for (Variable& leaf : leaves_) leaf.clear_grad();
}

void DataParallel::add_up(const Tensor& parts, const Tensor& all, double scale, const Tensor& total) {
    if (processes() > 1) {
        options_.processes->all_gather(parts, all);
        options_.processes->wait();
    }
    engine::kernels(device_).sum_parts(processes() > 1 ? all : parts, scale, total);
}

Tensor DataParallel::reduce() {
    if (alone()) return total_;
    if (options_.shards > 1) {
        const double scale = 1.0 / static_cast<double>(options_.shards);
        for (const Bucket& bucket : buckets_) {
            const int64_t numel = options_.shards * bucket.size;
            const Tensor all = processes() == 1 ? Tensor()
                                                : gathered_.reshape({gathered_.numel()})
                                                      .slice(0, numel)
                                                      .reshape({options_.shards, bucket.size});
            add_up(bucket.parts, all, scale, bucket.mean);
        }
        add_up(sums_, gathered_sums_, 1.0, total_);
    } else {
        std::vector<Tensor> tensors{sums_};
        for (const Bucket& bucket : buckets_) {
            if (!bucket.sent) tensors.push_back(bucket.parts);
        }
        options_.processes->all_reduce(tensors);
        options_.processes->wait();
        for (const Bucket& bucket : buckets_) {
            if (options_.reduce_bf16) engine::kernels(device_).cast(bucket.parts, bucket.mean);
        }
    }
    for (const Bucket& bucket : buckets_) {
        for (size_t i = 0; i < bucket.leaves.size(); ++i) {
            Variable& leaf = leaves_[bucket.leaves[i]];
            const engine::Shape& shape = leaf.shape();
            leaf.set_grad(
                bucket.mean.slice(bucket.begins[i], bucket.begins[i] + shape.numel()).reshape(shape));
        }
    }
    leaves_.clear();  // they keep the codes of the weights
    return total_;
}

size_t DataParallel::bytes() const {
    size_t bytes = 0;
    if (options_.processes == nullptr) return bytes;  // nothing is sent
    for (const Bucket& bucket : buckets_) bytes += bucket.parts.bytes();
    return bytes;
}

}  // namespace vvtq::nn
