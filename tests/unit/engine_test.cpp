// Tensors, memory, shapes and random numbers of the engine.
#include <array>
#include <cmath>
#include <limits>

#include "engine/device.h"
#include "engine/kernels.h"
#include "engine/random.h"
#include "engine/tensor.h"
#include "tests/catch.h"

using namespace vvtq::engine;

TEST_CASE("engine: Philox gives the published numbers", "[engine]") {
    using Words = std::array<uint32_t, 4>;
    // Known answers of Philox 4x32-10 (Random123): zeros, ones, and digits of pi.
    CHECK(philox(0, 0, 0) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    constexpr uint64_t kOnes = std::numeric_limits<uint64_t>::max();
    CHECK(philox(kOnes, kOnes, kOnes) == Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    CHECK(philox(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88) ==
          Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("engine: draws depend on the key, have their range and their moments", "[engine]") {
    Random a(mix_key({1, 2})), again(mix_key({1, 2})), other(mix_key({2, 1}));
    CHECK(a.bits() == again.bits());
    CHECK(a.bits() != other.bits());

    constexpr int kDraws = 100000;
    double sum = 0, squares = 0, normal_sum = 0, normal_squares = 0;
    std::vector<int> counts(7);
    for (int i = 0; i < kDraws; ++i) {
        const double u = a.uniform();
        REQUIRE((u >= 0 && u < 1));
        sum += u;
        squares += u * u;
        const double n = a.normal();
        normal_sum += n;
        normal_squares += n * n;
        ++counts.at(a.below(7));
    }
    // Five standard errors of the means of uniform and normal numbers and of their squares.
    CHECK(std::abs(sum / kDraws - 0.5) < 5 * 0.2887 / std::sqrt(kDraws));
    CHECK(std::abs(squares / kDraws - 1.0 / 3) < 5 * 0.2981 / std::sqrt(kDraws));
    CHECK(std::abs(normal_sum / kDraws) < 5 / std::sqrt(kDraws));
    CHECK(std::abs(normal_squares / kDraws - 1) < 5 * std::sqrt(2.0 / kDraws));
    for (const int count : counts) CHECK(std::abs(count - kDraws / 7.0) < 5 * std::sqrt(kDraws / 7.0));
    CHECK_THROWS_AS(a.below(0), Error);
}

TEST_CASE("engine: shapes count, index and refuse", "[engine]") {
    const Shape shape{2, 3, 5};
    CHECK((shape.rank() == 3 && shape.numel() == 30 && shape.rows() == 6 && shape.cols() == 5));
    CHECK((shape[0] == 2 && shape[-1] == 5 && shape.str() == "(2, 3, 5)"));
    CHECK((shape == Shape{2, 3, 5} && !(shape == Shape{2, 3}) && !(shape == Shape{2, 3, 4})));
    CHECK((Shape{}.numel() == 1 && Shape{0, 4}.numel() == 0));
    CHECK_THROWS_AS(shape[3], Error);
    CHECK_THROWS_AS(shape[-4], Error);
    CHECK_THROWS_AS((Shape{-1}), Error);
    CHECK_THROWS_AS((Shape{int64_t{1} << 40, int64_t{1} << 40}), Error);
    CHECK_THROWS_AS((Shape{1, 1, 1, 1, 1, 1, 1}), Error);
}

TEST_CASE("engine: reshape and slice share memory, clone does not", "[engine]") {
    const Tensor x = Tensor::from({0, 1, 2, 3, 4, 5}, {3, 2}, DType::f32);
    CHECK(x.sole_owner());
    const Tensor rows = x.slice(1, 3), flat = x.reshape({6}), copy = x.clone();
    CHECK(!x.sole_owner());
    kernels(Device::cpu).fill(7.0, rows);
    CHECK(flat.to_vector() == std::vector<double>{0, 1, 7, 7, 7, 7});
    CHECK(copy.to_vector() == std::vector<double>{0, 1, 2, 3, 4, 5});
    CHECK(x.to(DType::f64).dtype() == DType::f64);
    CHECK_THROWS_AS(x.reshape({5}), Error);
    CHECK_THROWS_AS(x.slice(2, 4), Error);
    CHECK_THROWS_AS(x.data<double>(), Error);
    CHECK_THROWS_AS(x.item(), Error);
    CHECK_THROWS_AS(Tensor().raw(), Error);
    CHECK_THROWS_AS(Tensor::from({1, 2}, {3}, DType::f32), Error);
}

TEST_CASE("engine: a tensor on its own device is the same handle", "[engine]") {
    const Tensor x = Tensor::from({1, 2}, {2}, DType::f64);
    CHECK(x.to(Device::cpu).raw() == x.raw());
    CHECK(x.to(DType::f64).raw() == x.raw());
    CHECK(x.to(DType::f32).raw() != x.raw());
    CHECK_THROWS_AS(Tensor().to(Device::cpu), Error);
    if (!is_available(Device::cuda)) CHECK_THROWS_AS(x.to(Device::cuda), Error);
}

TEST_CASE("engine: host values become elements of every dtype", "[engine]") {
    const std::vector<double> integers = {0, 1, 5, 127};
    for (const DType dtype :
         {DType::f32, DType::f64, DType::bf16, DType::i8, DType::u8, DType::i32, DType::i64}) {
        INFO(name_of(dtype));
        const Tensor x = Tensor::from(integers, {2, 2}, dtype);
        CHECK(x.dtype() == dtype);
        CHECK(x.to_vector() == integers);
        CHECK(x.bytes() == 4 * size_of(dtype));
    }
    CHECK(master_of(DType::f64) == DType::f64);
    CHECK(master_of(DType::f32) == DType::f32);
    CHECK(master_of(DType::bf16) == DType::f32);
}

TEST_CASE("engine: bf16 is the nearest of 8 bits, ties to even", "[engine]") {
    constexpr double kUlp = 1.0 / 128;  // of numbers from 1 to 2
    const std::vector<std::pair<double, double>> rounded = {{1 + kUlp, 1 + kUlp},
                                                            {1 + 0.5 * kUlp, 1},
                                                            {1 + 1.5 * kUlp, 1 + 2 * kUlp},
                                                            {1 + 0.501 * kUlp, 1 + kUlp},
                                                            {-1 - 0.499 * kUlp, -1},
                                                            {2 - 0.25 * kUlp, 2},
                                                            {0.0, 0.0},
                                                            {1e39, std::numeric_limits<double>::infinity()}};
    for (const auto& [value, nearest] : rounded) {
        INFO(value);
        CHECK(Tensor::from({value}, {1}, DType::bf16).item() == nearest);
    }
    CHECK(std::isnan(Tensor::from({std::nan("")}, {1}, DType::bf16).item()));
    CHECK(std::isinf(Tensor::from({-HUGE_VAL}, {1}, DType::bf16).item()));
}

TEST_CASE("engine: a tensor larger than what is left is refused before the machine runs out", "[engine]") {
    const auto left = static_cast<int64_t>(runtime(Device::cpu).free_memory());
    CHECK_THROWS_AS(Tensor({left / 2}, DType::f32), OutOfMemory);  // twice as much
    CHECK_THROWS_AS(Tensor({int64_t{1} << 50}, DType::f64), OutOfMemory);
    CHECK(Tensor::full({3}, 2.0, DType::f32).to_vector() == std::vector<double>{2, 2, 2});
}

TEST_CASE("engine: the CPU's runtime copies at once and replays nothing", "[engine]") {
    Runtime& cpu = runtime(Device::cpu);
    CHECK(is_available(Device::cpu));
    CHECK(cpu.description().find("CPU") != std::string::npos);
    CHECK(cpu.free_memory() > 0);
    const Tensor x = Tensor::zeros({2}, DType::f32);
    const float values[2] = {1.5F, -2.5F};
    cpu.upload(values, x.raw(), sizeof values);
    CHECK(x.to_vector() == std::vector<double>{1.5, -2.5});
    float back[2] = {};
    cpu.download(x.raw(), back, sizeof back);
    CHECK(back[1] == -2.5F);

    const auto upload = cpu.make_upload(x.raw(), x.bytes());
    static_cast<float*>(upload->host())[0] = 7.0F;
    upload->send();
    CHECK(x.to_vector() == std::vector<double>{7, -2.5});
    void* const host = cpu.allocate_host(x.bytes());
    cpu.enqueue_download(x.raw(), host, x.bytes());
    CHECK(static_cast<float*>(host)[0] == 7.0F);
    cpu.release_host(host, x.bytes());

    const auto begin = cpu.make_event(), end = cpu.make_event();
    end->wait();  // nothing was recorded
    begin->record();
    end->record();
    CHECK(end->since(*begin) >= 0);
    bool ran = false;
    CHECK(cpu.record_graph([&] { ran = true; }) == nullptr);
    CHECK_FALSE(ran);
}

TEST_CASE("engine: the pool counts bytes in use, keeps the peak, and hands memory out again", "[engine]") {
    Pool& memory = pool(Device::cpu);
    const size_t before = memory.in_use();
    memory.reset_peak();
    constexpr int64_t kElements = 100003;  // an odd size of its own
    void* first = nullptr;
    {
        const Tensor x({kElements}, DType::f64);
        first = x.raw();
        CHECK(reinterpret_cast<uintptr_t>(first) % 64 == 0);
        CHECK(memory.in_use() >= before + x.bytes());
        CHECK(memory.in_use() <= before + x.bytes() + x.bytes() / 4);
    }
    CHECK(memory.in_use() == before);
    CHECK(memory.peak() >= before + kElements * 8);
    CHECK(Tensor({kElements}, DType::f64).raw() == first);
    CHECK_NOTHROW(Tensor({0, 3}, DType::f32).to_vector());
}

TEST_CASE("engine: under ShapesOnly tensors have shapes and no memory", "[engine]") {
    Pool& memory = pool(Device::cpu);
    const size_t before = memory.in_use();
    {
        const ShapesOnly guard;
        constexpr int64_t kMany = int64_t{1} << 50;
        const Tensor x = Tensor::zeros({kMany, 2}, DType::f32);
        CHECK(x.shape() == Shape{kMany, 2});
        CHECK(x.dtype() == DType::f32);
        CHECK(x.device() == Device::cpu);
        CHECK(x.memory_id() == x.reshape({2, kMany}).memory_id());
        CHECK(x.memory_id() != x.like().memory_id());
        CHECK_THROWS_AS(x.raw(), Error);
        CHECK(Tensor::from({1, 2}, {2}, DType::i32).defined());
        CHECK(memory.in_use() == before);
        { const ShapesOnly nested; }
        CHECK(ShapesOnly::active());
    }
    CHECK_FALSE(ShapesOnly::active());
    CHECK(Tensor::full({1}, 3.0, DType::f32).item() == 3.0);
}

TEST_CASE("engine: a device that is not there is the user's fault, in one line", "[engine]") {
    try {
        kernels(Device::cuda);
        FAIL("no error");
    } catch (const Error& error) {
        CHECK(error.fault() == Fault::input);
        CHECK(std::string(error.what()).find("`device`") != std::string::npos);
        CHECK(std::string(error.what()).find('\n') == std::string::npos);
    }
}

TEST_CASE("engine: memory_id is that of the memory", "[engine]") {
    const Tensor x = Tensor::zeros({4, 2}, DType::f32);
    CHECK(x.slice(0, 1).memory_id() == x.slice(3, 4).memory_id());
    CHECK(x.reshape({8}).memory_id() == x.memory_id());
    CHECK(x.clone().memory_id() != x.memory_id());
    CHECK(x.to(DType::f64).memory_id() != x.memory_id());
}
