// DeviceBatch and Readback on the CPU: what goes to a device and what comes back.
#include "apps/training/device_batch.h"

#include "apps/training/readback.h"
#include "tests/catch.h"
#include "tests/golden_inputs.h"

using namespace vvtq;
using engine::Device;
using engine::DType;
using engine::Tensor;

namespace {

constexpr int kImage = 6;
constexpr int64_t kClasses = 4;

data::Batch batch_of(int64_t size, uint8_t first, bool soft) {
    data::Batch batch;
    batch.size = size;
    batch.image_size = kImage;
    batch.classes = static_cast<int>(kClasses);
    for (int64_t i = 0; i < size * 3 * kImage * kImage; ++i) {
        batch.pixels.push_back(static_cast<uint8_t>(first + 7 * i));
    }
    for (int64_t b = 0; b < size; ++b) batch.targets.push_back(static_cast<int>((b + first) % kClasses));
    for (int64_t i = 0; soft && i < size * kClasses; ++i) {
        batch.soft.push_back(static_cast<float>(first + i) / 64);
    }
    return batch;
}

/// (pixel / 255 - mean) / deviation of each channel
std::vector<double> normalized(const data::Batch& batch) {
    const double mean[3] = {0.485, 0.456, 0.406}, deviation[3] = {0.229, 0.224, 0.225};
    std::vector<double> values;
    for (size_t i = 0; i < batch.pixels.size(); ++i) {
        const size_t c = i / (kImage * kImage) % 3;
        values.push_back((batch.pixels[i] / 255.0 - mean[c]) / deviation[c]);
    }
    return values;
}

}  // namespace

TEST_CASE("a batch lies normalized on the device, with labels and distributions") {
    apps::DeviceBatch place(Device::cpu, 3, kImage, kClasses, true);
    for (const int64_t size : {3, 2, 1, 3}) {  // smaller batches too, and larger ones behind them
        const data::Batch batch = batch_of(size, static_cast<uint8_t>(10 * size), true);
        place.load(batch);
        CHECK(place.size() == size);
        const Tensor pictures = place.pictures(DType::f64);
        CHECK(pictures.shape() == engine::Shape{size, 3, kImage, kImage});
        CHECK(pictures.dtype() == DType::f64);
        CHECK(tests::relative_error(pictures.to_vector(), normalized(batch)) <= 1e-14);
        CHECK(tests::relative_error(place.pictures(DType::f32).to_vector(), normalized(batch)) <= 1e-6);
        CHECK(place.labels().dtype() == DType::i32);
        CHECK(place.labels().to_vector() == std::vector<double>(batch.targets.begin(), batch.targets.end()));
        for (const DType dtype : {DType::f32, DType::f64}) {
            const Tensor soft = place.soft_targets(dtype);
            CHECK(soft.dtype() == dtype);
            CHECK(soft.shape() == engine::Shape{size, kClasses});
            CHECK(soft.to_vector() == std::vector<double>(batch.soft.begin(), batch.soft.end()));
        }
    }
}

TEST_CASE("a batch keeps its place, and pictures taken of it their values") {
    apps::DeviceBatch place(Device::cpu, 2, kImage, kClasses, false);
    const data::Batch first = batch_of(2, 1, false);
    place.load(first);
    const Tensor before = place.pictures(DType::f64);
    const void* const labels = place.labels().raw();
    place.load(batch_of(2, 99, false));
    CHECK(place.labels().raw() == labels);
    CHECK(before.to_vector() != place.pictures(DType::f64).to_vector());
    CHECK(tests::relative_error(before.to_vector(), normalized(first)) <= 1e-14);
    CHECK_FALSE(place.soft_targets(DType::f32).defined());
}

TEST_CASE("batches that do not fit their place are refused") {
    apps::DeviceBatch place(Device::cpu, 2, kImage, kClasses, true);
    const auto refused = [&](const auto& change) {
        data::Batch batch = batch_of(2, 1, true);
        change(batch);
        CHECK_THROWS_AS(place.load(batch), engine::Error);
    };
    CHECK_NOTHROW(place.load(batch_of(2, 1, true)));
    refused([](data::Batch& b) { b = batch_of(3, 1, true); });
    refused([](data::Batch& b) { b = batch_of(0, 1, true); });
    refused([](data::Batch& b) { b.image_size = 5; });
    refused([](data::Batch& b) { b.pixels.pop_back(); });
    refused([](data::Batch& b) { b.targets[1] = kClasses; });
    refused([](data::Batch& b) { b.targets[0] = -1; });
    refused([](data::Batch& b) { b.soft.pop_back(); });
    refused([](data::Batch& b) { b.soft.clear(); });
}

TEST_CASE("results come back in the order they were sent, as they were then") {
    apps::Readback results(Device::cpu);
    CHECK(results.pending() == 0);
    CHECK_THROWS_AS(results.receive(), engine::Error);
    const Tensor loss({1}, DType::f32), counts({2}, DType::i64), halt({1}, DType::i32);
    const auto set = [&](float value) {
        *loss.data<float>() = value;
        counts.data<int64_t>()[0] = static_cast<int64_t>(value) + (int64_t{1} << 40);
        counts.data<int64_t>()[1] = -static_cast<int64_t>(value);
        *halt.data<int32_t>() = static_cast<int32_t>(value) % 4;
    };
    const auto expected = [](double value) {
        return std::vector<double>{value, std::floor(value) + 1099511627776.0, -std::floor(value),
                                   std::fmod(std::floor(value), 4)};
    };
    for (int round = 0; round < 3; ++round) {  // slots are used again
        for (int i = 0; i < 4; ++i) {
            set(static_cast<float>(10 * round + i) + 0.5F);
            results.send({loss, counts, halt});
            CHECK(results.pending() == static_cast<size_t>(i + 1));
        }
        set(-1);
        results.send({halt, Tensor::full({100}, 0.25, DType::f64)});  // another size
        for (int i = 0; i < 4; ++i) CHECK(results.receive() == expected(10 * round + i + 0.5));
        const std::vector<double> last = results.receive();
        CHECK(last.size() == 101);
        CHECK(last.back() == 0.25);
        CHECK(results.pending() == 0);
    }
    results.send({loss});  // not read: given back with its slot
}

TEST_CASE("what was sent and not read is given back") {
    const auto& pool = engine::pool(Device::cpu);
    const size_t before = pool.in_use();
    {
        apps::Readback results(Device::cpu);
        for (int i = 0; i < 3; ++i) results.send({Tensor::full({1000}, i, DType::f64)});
        results.receive();
    }
    CHECK(pool.in_use() == before);
}
