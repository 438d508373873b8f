// Gloo between threads: what sums and copies give, and what happens where one goes away.
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <thread>

#include "engine/communicator.h"
#include "tests/golden_inputs.h"
#include "tests/rank_threads.h"
#include "tests/unit/kernel_support.h"

using namespace vvtq::engine;
using namespace vvtq::tests;

namespace {

using Bytes = std::vector<char>;
Bytes bytes_of(const Tensor& x) {
    const auto* data = static_cast<const char*>(x.raw());
    return {data, data + x.bytes()};
}

/// Whole numbers that every dtype holds, and sums of three of them too.
std::vector<double> whole(int64_t n, int rank) {
    std::vector<double> values(static_cast<size_t>(n));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>((i * 7 + 5) % 31) + rank;
    return values;
}

size_t at(const Communicator& communicator) { return static_cast<size_t>(communicator.rank()); }

void check_no_errors(const std::vector<std::string>& errors) {
    for (const std::string& error : errors) CHECK(error == "");
}

}  // namespace

TEST_CASE("communicator: all_reduce sums, with the same bits on all ranks and in every call",
          "[communicator]") {
    if (gloo_missing()) return;
    for (const int size : {1, 2, 3}) {
        for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
            for (const int64_t n : {0, 1, 2, 5, 1000, 700001}) {
                INFO(size << " ranks, " << n << " " << name_of(dtype));
                std::vector<std::vector<double>> sums(3);
                std::vector<Bytes> bits(3), again(3);
                check_no_errors(run_ranks(size, [&](Communicator& c) {
                    const Tensor x = Tensor::from(whole(n, c.rank()), {n}, dtype);
                    c.all_reduce({x});
                    c.wait();
                    sums[at(c)] = x.to_vector();
                    for (std::vector<Bytes>* to : {&bits, &again}) {
                        const Tensor y = Tensor::from(fill(concat("y", c.rank()), n, 1.0), {n}, dtype);
                        c.all_reduce({y});
                        c.wait();
                        (*to)[at(c)] = bytes_of(y);
                    }
                }));
                std::vector<double> expected(static_cast<size_t>(n)), inexact(static_cast<size_t>(n));
                for (int rank = 0; rank < size; ++rank) {
                    const auto own = whole(n, rank), other = fill(concat("y", rank), n, 1.0);
                    for (size_t i = 0; i < own.size(); ++i) expected[i] += own[i], inexact[i] += other[i];
                }
                for (size_t rank = 0; rank < static_cast<size_t>(size); ++rank) {
                    CHECK(sums[rank] == expected);
                    CHECK(bits[rank] == bits[0]);
                    CHECK(again[rank] == bits[0]);
                }
                const Tensor y(Shape{n}, dtype);
                if (n > 0) std::memcpy(y.raw(), bits[0].data(), bits[0].size());
                const double tolerance = dtype == DType::f64 ? 1e-14 : dtype == DType::f32 ? 1e-6 : 0.02;
                CHECK(relative_error(y.to_vector(), inexact) <= tolerance);
            }
        }
    }
}

TEST_CASE("communicator: all_gather and broadcast copy every dtype", "[communicator]") {
    if (gloo_missing()) return;
    constexpr DType kAll[] = {DType::f32, DType::f64, DType::bf16, DType::i8,
                              DType::u8,  DType::i32, DType::i64};
    for (const int size : {1, 2, 3}) {
        for (const int64_t n : {0, 1, 3, 1000, 70001}) {
            INFO(size << " ranks, " << n << " elements");
            std::vector<char> right(3);
            check_no_errors(run_ranks(size, [&](Communicator& c) {
                bool good = true;
                for (const DType dtype : kAll) {
                    const auto own = whole(n, c.rank());
                    const Tensor part = Tensor::from(own, {n}, dtype), all({size, n}, dtype);
                    c.all_gather(part, all);
                    c.wait();
                    good = good && part.to_vector() == own;
                    for (int rank = 0; rank < size; ++rank) {
                        good = good && all.slice(rank, rank + 1).to_vector() == whole(n, rank);
                        const Tensor x = Tensor::from(own, {n}, dtype);
                        c.broadcast(x, rank);
                        c.wait();
                        good = good && x.to_vector() == whole(n, rank);
                    }
                }
                right[at(c)] = good;
            }));
            for (size_t rank = 0; rank < static_cast<size_t>(size); ++rank) CHECK(right[rank]);
        }
    }
}

TEST_CASE("communicator: what cannot be done is refused", "[communicator]") {
    if (gloo_missing()) return;
    const auto alone = make_communicator(Device::cpu, {});
    CHECK(alone->size() == 1);
    CHECK(alone->description() == "Gloo");
    const Tensor x = vector_of({1, 2}, DType::f32);
    CHECK_THROWS_AS(alone->all_reduce({vector_of({1, 2}, DType::i32)}), Error);
    CHECK_THROWS_AS(alone->all_gather(x, vector_of({1, 2, 3}, DType::f32)), Error);
    CHECK_THROWS_AS(alone->all_gather(x, vector_of({1, 2}, DType::f64)), Error);
    CHECK_THROWS_AS(alone->broadcast(x, 1), Error);
    CHECK_THROWS_AS(make_communicator(Device::cpu, {2, 2, nullptr, 1, ""}), Error);
    CommunicatorOptions options{0, 2, {}, 1, ""};
    options.exchange = [](const std::string&) -> std::vector<std::string> { run_error("rank 1 is missing"); };
    CHECK_THROWS_WITH(make_communicator(Device::cpu, options), "rank 1 is missing");
    options.exchange = [](const std::string&) -> std::vector<std::string> { return {"rank_0 6x", ""}; };
    CHECK_THROWS_WITH(make_communicator(Device::cpu, options),
                      "another process sent `6x`, which is not hexadecimal");
    // .invalid never has an address (RFC 2606)
    options.address = "no.invalid";
    CHECK_THROWS_WITH(make_communicator(Device::cpu, options),
                      Catch::Matchers::StartsWith("Gloo: this machine's address no.invalid: "));
}

TEST_CASE("communicator: where a rank goes away or stops, the others end in time with one line",
          "[communicator]") {
    if (gloo_missing()) return;
    using Clock = std::chrono::steady_clock;
    std::array<char, 256> host{};
    gethostname(host.data(), host.size() - 1);
    for (const bool stuck : {false, true}) {
        const auto start = Clock::now();
        const auto errors = run_ranks(
            3,
            [&](Communicator& c) {
                const Tensor x = Tensor::zeros({100000}, DType::f32);
                c.all_reduce({x});
                if (c.rank() == 1) {
                    if (stuck) std::this_thread::sleep_for(std::chrono::seconds(3));
                    return;
                }
                for (int step = 0; step < 100; ++step) c.all_reduce({x});
            },
            1.0);
        const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
        CHECK(seconds < (stuck ? 4.0 : 2.0));
        CHECK(errors[1] == "");
        for (const size_t rank : {size_t{0}, size_t{2}}) {
            INFO(errors[rank]);
            // the first of them that ends is gone for the other
            CHECK((stuck ? errors[rank] == "Gloo: the other processes did not answer within 1 s" ||
                               errors[rank].find(" gone: ") != std::string::npos
                         : errors[rank].find("1 on " + std::string(host.data())) != std::string::npos));
            CHECK(errors[rank].starts_with("Gloo: "));
            CHECK(errors[rank].find_first_of("\n/$") == std::string::npos);
        }
    }
}
