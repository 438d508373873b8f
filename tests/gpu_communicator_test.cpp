// NCCL: a world of one, and two processes that share a GPU.
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "engine/communicator.h"
#include "engine/device.h"
#include "tests/catch.h"
#include "tests/command_support.h"
#include "tests/gpu_support.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::Communicator;
using engine::concat;
using engine::DType;
using engine::Tensor;

namespace {

bool nccl_missing() {
    if (gpu_missing()) return true;
    try {
        engine::make_communicator(kGpu, {});
        return false;
    } catch (const engine::Error& error) {
        if (error.fault() != engine::Fault::input) throw;
        CHECK(std::string(error.what()) ==
              "`dist_backend` nccl: this build has no NCCL: set NCCL_ROOT to its folder and configure again");
    }
    WARN("this build has no NCCL");
    return true;
}

/// Whole numbers that every dtype holds, and the sum of two of them too.
std::vector<double> whole(int64_t n, int rank) {
    std::vector<double> values(static_cast<size_t>(n));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>((i * 7 + 5) % 31) + rank;
    return values;
}
std::vector<double> sum_over_ranks(int64_t n, int size) {
    std::vector<double> total(static_cast<size_t>(n));
    for (int rank = 0; rank < size; ++rank) {
        const std::vector<double> own = whole(n, rank);
        for (size_t i = 0; i < own.size(); ++i) total[i] += own[i];
    }
    return total;
}

void check_sums(Communicator& c) {
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
        for (const int64_t n : {0, 1, 5, 1000, 700001}) {
            INFO(n << " " << engine::name_of(dtype));
            const Tensor x = Tensor::from(whole(n, c.rank()), {n}, dtype, kGpu);
            c.all_reduce({x});
            c.wait();
            CHECK(x.to_vector() == sum_over_ranks(n, c.size()));
            std::vector<double> before;
            for (int i = 0; i < 3; ++i) {
                const Tensor y =
                    Tensor::from(exact_fill(dtype, concat("y", c.rank()), n, 1.0), {n}, dtype, kGpu);
                c.all_reduce({y});
                c.wait();
                if (i > 0) CHECK(y.to_vector() == before);
                before = y.to_vector();
            }
        }
    }
}

void check_copies(Communicator& c) {
    for (const DType dtype :
         {DType::f32, DType::f64, DType::bf16, DType::i8, DType::u8, DType::i32, DType::i64}) {
        for (const int64_t n : {0, 1, 3, 70001}) {
            INFO(n << " " << engine::name_of(dtype));
            const Tensor part = Tensor::from(whole(n, c.rank()), {n}, dtype, kGpu);
            const Tensor all({c.size(), n}, dtype, kGpu);
            c.all_gather(part, all);
            c.wait();
            for (int rank = 0; rank < c.size(); ++rank) {
                CHECK(all.slice(rank, rank + 1).to_vector() == whole(n, rank));
                const Tensor x = Tensor::from(whole(n, c.rank()), {n}, dtype, kGpu);
                c.broadcast(x, rank);
                c.wait();
                CHECK(x.to_vector() == whole(n, rank));
            }
        }
    }
}

/// Two sums beside kernels, joined by one `wait`, in a graph that is replayed with other numbers each time.
void check_graph(Communicator& c) {
    constexpr int64_t kSize = 100003;
    const Tensor source({kSize}, DType::f32, kGpu), total = Tensor::zeros({kSize}, DType::f32, kGpu);
    const Tensor all({c.size(), 1}, DType::f64, kGpu);
    const auto step = [&] {
        const Tensor x = source.like(), second = source.like();
        on_gpu().scale(source, 2.0, x);
        c.all_reduce({x});
        on_gpu().scale(source, 3.0, second);  // beside the sum
        c.all_reduce({second});
        c.all_gather(Tensor::full({1}, 5 + c.rank(), DType::f64, kGpu), all);
        c.wait();
        on_gpu().accumulate_add(x, total);
        on_gpu().accumulate_add(second, total);
    };
    std::vector<double> expected(kSize);
    const auto expect = [&](double value) {
        on_gpu().fill(value + c.rank(), source);
        for (double& sum : expected) sum += 5 * (value * c.size() + (c.size() == 2 ? 1 : 0));
    };
    expect(1);
    step();
    CHECK(total.to_vector() == expected);
    const auto graph = engine::runtime(kGpu).record_graph(step);
    REQUIRE(graph != nullptr);
    CHECK(total.to_vector() == expected);
    for (int i = 2; i < 7; ++i) {
        expect(i);
        on_gpu().fill(0, all);
        graph->replay();
        CHECK(total.to_vector() == expected);
        std::vector<double> gathered;
        for (int rank = 0; rank < c.size(); ++rank) gathered.push_back(5 + rank);
        CHECK(all.to_vector() == gathered);
    }
}

void check_all(Communicator& c) {
    check_sums(c);
    check_copies(c);
    check_graph(c);
}

/// By files of `folder`; throws after a minute.
engine::ExchangeText exchange_in(const std::filesystem::path& folder, int rank, int size) {
    return [=, round = 0](const std::string& own) mutable {
        ++round;
        const auto name = [&](int of) { return folder / concat(round, ".", of); };
        std::ofstream(folder / concat("new", rank)) << own;
        std::filesystem::rename(folder / concat("new", rank), name(rank));
        std::vector<std::string> texts;
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
        for (int other = 0; other < size; ++other) {
            while (!std::filesystem::exists(name(other))) {
                if (std::chrono::steady_clock::now() > deadline)
                    engine::run_error("rank ", other, " is missing");
                std::this_thread::sleep_for(std::chrono::milliseconds(5));
            }
            texts.push_back(text_of(name(other)));
        }
        return texts;
    };
}

}  // namespace

TEST_CASE("gpu communicator: a world of one", "[gpu]") {
    if (nccl_missing()) return;
    const auto alone = engine::make_communicator(kGpu, {});
    CHECK(alone->description().starts_with("NCCL 2."));
    check_all(*alone);
    const Tensor x({2}, DType::f32, kGpu);
    CHECK_THROWS_AS(alone->all_reduce({Tensor({2}, DType::i32, kGpu)}), engine::Error);
    CHECK_THROWS_AS(alone->all_reduce({Tensor({2}, DType::f32)}), engine::Error);
    CHECK_THROWS_AS(alone->all_gather(x, Tensor({3}, DType::f32, kGpu)), engine::Error);
    CHECK_THROWS_AS(alone->broadcast(x, 1), engine::Error);
}

// A child of the next test.
TEST_CASE("gpu communicator: one rank of two", "[.][nccl-rank]") {
    const char *rank = std::getenv("VVTQ_TEST_RANK"), *folder = std::getenv("VVTQ_TEST_FOLDER");
    if (rank == nullptr || folder == nullptr) return;
    const int own = std::atoi(rank);
    const auto communicator = engine::make_communicator(kGpu, {own, 2, exchange_in(folder, own, 2), 60, ""});
    check_all(*communicator);
}

TEST_CASE("gpu communicator: two processes that share a GPU", "[gpu]") {
    if (nccl_missing()) return;
    const Scratch scratch;
    const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    // NCCL takes ranks with one host for one GPU each; as two hosts they talk over sockets
    const auto child = [&](int rank) {
        return concat("VVTQ_TEST_FOLDER=", scratch.path(), " VVTQ_TEST_RANK=", rank, " NCCL_HOSTID=vvtq",
                      rank, " NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1 timeout -k 5 240 '", self,
                      "' '[nccl-rank]'");
    };
    const Ended ended = run_shell(
        child(0) + " & other=$!; " + child(1) + "; own=$?; wait $other && exit $own", scratch.path());
    INFO(ended.out << ended.err);
    CHECK(ended.status == 0);
    CHECK(ended.out.find("No tests ran") == std::string::npos);
    CHECK(ended.out.find("NCCL") == std::string::npos);  // it is silent
    CHECK(ended.err == "");
}
