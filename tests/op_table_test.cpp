// Every check that a row of the op table gives.
#include <algorithm>
#include <cmath>
#include <set>

#include "engine/threads.h"
#include "tests/catch.h"
#include "tests/golden_inputs.h"
#include "tests/op_harness.h"
#include "tests/sources.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::DType;

namespace {

// Measured: 6.5e-9 for the loss over 197 rows, whose gradients are 1e-4 of it; at most 5.2e-10 elsewhere.
constexpr double kGradientTolerance = 1e-7;
// Measured: at most 5.3e-6, gradients of steps, in which rounding errors cancel; 7e-7 elsewhere.
constexpr double kPrecisionTolerance = 1e-5;

/// Runs `check` on every row, with the row's name in the messages.
template <typename F>
void for_each_row(F&& check) {
    for (const OpCase& row : op_cases()) {
        INFO(row.op << ", " << row.label);
        check(row);
    }
}

bool finite(const std::vector<double>& values) {
    return std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); });
}

}  // namespace

TEST_CASE("op table: gradients are derivatives, and the check sees wrong ones", "[ops]") {
    for_each_row([](const OpCase& row) {
        const autograd::GradientCheck check = check_gradient(row, kGradientTolerance);
        INFO(check.report);
        CHECK(check.passed);
        CHECK(check.frozen <= 1e-13);  // measured: 2.3e-14
    });
}

TEST_CASE("op table: f32 agrees with f64", "[ops]") {
    for_each_row([](const OpCase& row) {
        const Values in = input_values(row);
        const std::vector<double> upstream = upstream_gradient(row);
        const OpResult reference = run_op(row, in, upstream, DType::f64);
        const OpResult result = run_op(row, in, upstream, DType::f32);
        CHECK(relative_error(result.y, reference.y) <= kPrecisionTolerance);
        for (size_t i = 0; i < in.size(); ++i) {
            INFO("input " << i);
            CHECK(relative_error(result.gradients[i], reference.gradients[i]) <= kPrecisionTolerance);
        }
    });
}

TEST_CASE("op table: every element is written", "[ops]") {
    for_each_row([](const OpCase& row) {
        const Values in = input_values(row);
        const std::vector<double> upstream = upstream_gradient(row);
        size_t largest = upstream.size();
        for (const auto& values : in) {
            largest = std::max(largest, values.size());
        }
        for (const DType dtype : {DType::f32, DType::f64}) {
            const OpResult clean = run_op(row, in, upstream, dtype);
            poison_pool(largest * engine::size_of(DType::f64));
            const engine::Tensor fresh({static_cast<int64_t>(upstream.size())}, DType::f64);
            REQUIRE_FALSE(finite(fresh.to_vector()));  // the poison works
            const OpResult poisoned = run_op(row, in, upstream, dtype);
            CHECK(finite(poisoned.y));
            for (const std::vector<double>& gradient : poisoned.gradients) {
                CHECK(finite(gradient));
            }
            CHECK((poisoned == clean));
        }
    });
}

TEST_CASE("op table: the same bits for 1, 2 and 3 threads and run after run", "[ops]") {
    const int threads = engine::threads();
    for_each_row([](const OpCase& row) {
        const Values in = input_values(row);
        const std::vector<double> upstream = upstream_gradient(row);
        for (const DType dtype : {DType::f32, DType::f64}) {
            engine::set_threads(1);
            const OpResult one = run_op(row, in, upstream, dtype);
            for (const int n : {2, 3, 3}) {
                engine::set_threads(n);
                INFO(n << " threads");
                CHECK((run_op(row, in, upstream, dtype) == one));
            }
        }
    });
    engine::set_threads(threads);
}

TEST_CASE("op table: every recorded op has a row", "[ops]") {
    std::set<std::string> rows;
    for (const OpCase& row : op_cases()) {
        rows.insert(row.op);
    }
    std::set<std::string> ops;
    for (const SourceFile& file : source_files({"autograd", "nn", "quant", "apps"})) {
        for (const std::string& op : matches(file.text, R"(\brecord\(\s*"([^"]*)\")")) {
            ops.insert(op);
        }
    }
    CHECK(ops.size() > 10);  // the search finds them
    CHECK(ops == rows);
}

// What a build without a CUDA toolkit would not notice.
TEST_CASE("op table: every kernel has a CUDA function, every op a list of its activations", "[ops]") {
    std::string cuda;
    for (const SourceFile& file : source_files({"engine/cuda"})) cuda += file.text;
    const auto kernels =
        matches(source_file("engine/kernel_list.h").text, R"(\nVVTQ_(?:FUSED_)?KERNEL\((\w+)\))");
    CHECK(kernels.size() > 60);
    for (const std::string& kernel : kernels) {
        INFO(kernel);
        CHECK_FALSE(matches(cuda, "(\n(?:void|bool) " + kernel + "\\()").empty());
    }
    const auto fields = matches(source_file("engine/kernels.h").text, R"(Entry<\w+\([^;]*?\)>\s*(\w+)\s*;)");
    CHECK(std::set(fields.begin(), fields.end()) == std::set(kernels.begin(), kernels.end()));
    std::set<std::string> rows, listed;
    for (const OpCase& row : op_cases()) {
        rows.insert(row.op);
        for (const size_t input : activations().at(row.op)) CHECK(input < row.inputs.size());
    }
    for (const auto& [op, inputs] : activations()) listed.insert(op);
    CHECK(rows == listed);
}

TEST_CASE("op table: every kernel has a row or a test of its own", "[ops]") {
    const auto fields = matches(source_file("engine/kernels.h").text, R"(Entry<void\([^;]*?\)>\s*(\w+)\s*;)");
    REQUIRE(fields.size() > 30);
    std::set<std::string> covered;
    for (const OpCase& row : op_cases()) {
        covered.insert(row.kernels.begin(), row.kernels.end());
    }
    std::string ops;  // rows may only claim kernels that some op calls
    for (const SourceFile& file : source_files({"autograd"})) {
        ops += file.text;
    }
    for (const std::string& kernel : covered) {
        INFO(kernel);
        CHECK(std::find(fields.begin(), fields.end(), kernel) != fields.end());
        CHECK_FALSE(matches(ops, "(\\.\\s*" + kernel + "\\()").empty());
    }
    std::string direct;
    for (const SourceFile& file : source_files({"tests/unit"})) {
        if (file.path.rfind("tests/unit/kernels_", 0) == 0) direct += file.text;
    }
    for (const std::string& kernel : fields) {
        INFO(kernel);
        CHECK((covered.count(kernel) != 0 || !matches(direct, "(\\." + kernel + "\\()").empty()));
    }
}
