// Batches in page-locked memory: copied from where they lie, in order with the kernels.
#include <algorithm>

#include "apps/training/device_batch.h"
#include "engine/random.h"
#include "tests/catch.h"
#include "tests/gpu_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::Device;
using engine::DType;
using engine::Tensor;

namespace {

constexpr int kSide = 64;
constexpr int64_t kBatch = 32, kClasses = 10;

/// Random pixels of a batch of `size` pictures.
void fill(data::Batch& batch, uint64_t key, int64_t size) {
    engine::Random random(key);
    batch.size = size;
    batch.image_size = kSide;
    batch.pixels.resize(static_cast<size_t>(size) * 3 * kSide * kSide);
    for (uint8_t& pixel : batch.pixels) pixel = static_cast<uint8_t>(random.bits());
    batch.targets.assign(static_cast<size_t>(size), static_cast<int>(key % kClasses));
}

std::vector<double> on_the_cpu(uint64_t key, int64_t size) {
    data::Batch batch;
    fill(batch, key, size);
    apps::DeviceBatch place(Device::cpu, kBatch, kSide, kClasses, false);
    place.load(batch);
    return place.pictures(DType::f32).to_vector();
}

}  // namespace

TEST_CASE("gpu batches: memory is used again as soon as it was read", "[gpu]") {
    if (gpu_missing()) return;
    for (const Device memory : {kGpu, Device::cpu}) {
        apps::DeviceBatch place(kGpu, kBatch, kSide, kClasses, false);
        data::Batch batch;
        batch.pixels = data::Batch::Pixels(engine::HostAllocator<uint8_t>(memory));
        std::vector<Tensor> pictures;
        for (uint64_t key = 0; key < 12; ++key) {  // nothing but the copy is waited for
            fill(batch, key, key % 5 == 4 ? kBatch / 2 : kBatch);
            place.load(batch);
            pictures.push_back(place.pictures(DType::f32));
            place.wait();
            std::fill(batch.pixels.begin(), batch.pixels.end(), uint8_t{0});
        }
        for (uint64_t key = 0; key < 12; ++key) {
            INFO(engine::name_of(memory) << ", batch " << key);
            CHECK(largest_difference(pictures[key].to_vector(),
                                     on_the_cpu(key, key % 5 == 4 ? kBatch / 2 : kBatch)) < 1e-5);
        }
    }
}

TEST_CASE("gpu batches: a loader for the GPU makes the batches of one for the CPU", "[gpu]") {
    if (gpu_missing()) return;
    engine::Random random(3);
    data::Bytes pixels(size_t{40} * 3 * kSide * kSide);
    for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(random.bits());
    const auto dataset =
        data::make_memory_dataset("noise", "train", {"one"}, std::vector<int>(40), pixels, kSide, kSide, 3);
    data::LoaderOptions options;
    options.mode = data::LoaderMode::training;
    options.batch_size = 8;
    options.image_size = kSide;
    options.workers = 3;
    data::Loader usual(*dataset, options);
    options.device = kGpu;
    data::Loader locked(*dataset, options);
    usual.start(1);
    locked.start(1);
    data::Batch a, b;
    for (int i = 0; i < 5; ++i) {
        REQUIRE(usual.next(a));
        REQUIRE(locked.next(b));
        CHECK(b.pixels.get_allocator().device() == kGpu);
        CHECK(std::equal(a.pixels.begin(), a.pixels.end(), b.pixels.begin(), b.pixels.end()));
    }
}
