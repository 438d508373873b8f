// Fused LayerNorm and GELU passes on the GPU against their composition (engine/composed.h), which is run in
// f32 on the same values: what is rounded to bf16 between two products is what the fused kernel reads, so
// that nothing but its own arithmetic can differ.
#include <algorithm>
#include <cmath>

#include "engine/composed.h"
#include "tests/catch.h"
#include "tests/gpu_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::CodeRange;
using engine::DType;
using engine::LsqStep;
using engine::Shape;
using engine::Tensor;

namespace {

constexpr double kG = 0.37;  // gradient scale of steps

double tolerance_of(DType dtype) { return dtype == DType::bf16 ? 2e-2 : 1e-5; }

Tensor values_of(const std::string& name, const Shape& shape, DType dtype, double scale,
                 double offset = 0.0) {
    return Tensor::from(exact_fill(dtype, name, shape.numel(), scale, offset), shape, dtype, kGpu);
}

LsqStep step_of(CodeRange range, double alpha, double beta = 0.0) {
    return {gpu_vector({alpha}, DType::f32), beta == 0 ? Tensor() : gpu_vector({beta}, DType::f32), range,
            gpu_vector({kG}, DType::f32)};
}

Tensor in_f32(const Tensor& x) { return x.defined() ? as(DType::f32, x) : Tensor(); }

/// Errors of one pass, of each dtype.
struct Report {
    Worst values, steps;
    int64_t moved = 0, codes = 0;

    void check(const char* what, const Tensor& y, const Tensor& expected, DType dtype,
               const std::string& where) {
        const double error = l2_error(y.to_vector(), expected.to_vector());
        INFO(what << " " << error);
        values.note(error, where + " " + what);
        CHECK(error <= tolerance_of(dtype));
        CHECK_FALSE(l2_error(scaled(y.to_vector(), 1.05), expected.to_vector()) <= tolerance_of(dtype));
    }
    /// Codes may move by 1 where arithmetic rounds differently beside a tie. Which moved.
    std::vector<size_t> check_codes(const Tensor& q, const Tensor& expected) {
        const std::vector<double> a = q.to_vector(), b = expected.to_vector();
        std::vector<size_t> different;
        CHECK(largest_difference(a, b) <= 1);
        for (size_t i = 0; i < a.size(); ++i) {
            if (a[i] != b[i]) different.push_back(i);
        }
        INFO(different.size() << " of " << a.size() << " codes moved");
        CHECK(static_cast<double>(different.size()) <= 1e-3 * static_cast<double>(a.size()));
        moved += static_cast<int64_t>(different.size());
        codes += static_cast<int64_t>(a.size());
        return different;
    }
    /// A step's gradient g sum dq (q - v): |q - v| <= 1/2 inside, so that the sum is of the size of 0.3 g
    /// ||dq|| even where it happens to be smaller; each code that moved adds g |dq|.
    void check_step(const char* what, const Tensor& d, const Tensor& expected, const std::vector<double>& dq,
                    const std::vector<size_t>& different, DType dtype, const std::string& where) {
        const double size = std::max(std::abs(expected.item()), 0.3 * kG * l2_norm(dq));
        double allowed = tolerance_of(dtype) * size;
        for (const size_t i : different) allowed += 1.001 * kG * std::abs(dq[i]);
        const double error = std::abs(d.item() - expected.item());
        INFO(what << " " << d.item() << ", expected " << expected.item() << ", " << different.size()
                  << " codes moved");
        if (different.empty()) steps.note(error / size, where + " " + what);
        CHECK(error <= allowed);
    }
    std::string str() const {
        return engine::concat("values ", values.str(), "; steps ", steps.str(), "; ", moved, " of ", codes,
                              " codes moved");
    }
};

struct NormCase {
    Shape shape;  // (B, N, C)
    bool branch, keep, quantized, upstream;
};

void check_norm(const NormCase& c, DType dtype, Report& report) {
    const std::string where =
        engine::concat(engine::name_of(dtype), " ", c.shape.str(), c.branch ? " f" : "",
                       c.keep ? " keep" : "", c.quantized ? " step" : "", c.upstream ? " dy" : "");
    INFO(where);
    const int64_t cols = c.shape.cols();
    const Tensor x = values_of("x", c.shape, dtype, 1.0, 0.4);
    const Tensor f = c.branch ? values_of("f", c.shape, dtype, 0.8) : Tensor();
    Tensor keep;
    if (c.keep) {
        std::vector<double> factors(static_cast<size_t>(c.shape[0]));
        for (size_t b = 0; b < factors.size(); ++b) factors[b] = b % 3 == 1 ? 0.0 : 1.25;
        keep = gpu_vector(factors, DType::f32);
    }
    const Tensor gamma = values_of("gamma", {cols}, DType::f32, 0.3, 1.0);
    const Tensor beta = values_of("beta", {cols}, DType::f32, 0.5);
    const LsqStep step = c.quantized ? step_of(CodeRange::signed_bits(4), 0.21) : LsqStep{};
    const Tensor y = c.branch ? x.like() : x, q = x.like();
    const Tensor mean({c.shape.rows()}, DType::f32, kGpu), rstd = mean.like();
    on_gpu().residual_norm(x, f, keep, gamma, beta, 1e-6, step, c.branch ? y : Tensor(), q, mean, rstd);

    if (c.branch) {
        const Tensor sum(c.shape, DType::f64);
        on_cpu().residual(as_f64(x), as_f64(f), c.keep ? as_f64(keep) : Tensor(), sum);
        CHECK(l2_error(y.to_vector(), sum.to_vector()) <= (dtype == DType::bf16 ? 3e-3 : 1e-6));
    }
    const Tensor exact_y = in_f32(y), exact_q = exact_y.like(), exact_mean = mean.like(),
                 exact_rstd = mean.like();
    engine::composed::residual_norm(exact_y, {}, {}, gamma, beta, 1e-6, step, {}, exact_q, exact_mean,
                                    exact_rstd);
    CHECK(largest_difference(mean.to_vector(), exact_mean.to_vector()) <= 1e-6);
    CHECK(l2_error(rstd.to_vector(), exact_rstd.to_vector()) <= 1e-5);
    std::vector<size_t> different;
    if (c.quantized) {
        different = report.check_codes(q, exact_q);
    } else {
        report.check("q", q, exact_q, dtype, where);
    }

    const Tensor dq = values_of("dq", c.shape, dtype, 1.0, 0.1);
    const Tensor dy = c.upstream ? values_of("dy", c.shape, dtype, 1.0, 0.1) : Tensor();
    struct Out {
        Tensor dx, df, dgamma, dbeta, dalpha;
    };
    const auto outputs = [&](const Tensor& like) -> Out {
        return {like.like(), c.keep ? like.like() : Tensor(), gamma.like(), gamma.like(),
                c.quantized ? step.alpha.like() : Tensor()};
    };
    const Out out = outputs(y), exact = outputs(exact_y);
    on_gpu().residual_norm_backward(dq, dy, y, keep, gamma, beta, mean, rstd, step, out.dx, out.df,
                                    out.dgamma, out.dbeta, out.dalpha);
    engine::composed::residual_norm_backward(in_f32(dq), in_f32(dy), exact_y, keep, gamma, beta, mean, rstd,
                                             step, exact.dx, exact.df, exact.dgamma, exact.dbeta,
                                             exact.dalpha);
    report.check("dx", out.dx, exact.dx, dtype, where);
    if (c.keep) report.check("df", out.df, exact.df, dtype, where);
    report.check("dgamma", out.dgamma, exact.dgamma, dtype, where);
    report.check("dbeta", out.dbeta, exact.dbeta, dtype, where);
    if (c.quantized)
        report.check_step("dalpha", out.dalpha, exact.dalpha, dq.to_vector(), different, dtype, where);
}

void check_norms(const std::vector<Shape>& shapes, const std::vector<int64_t>& widths) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
        Report report;
        for (const Shape& shape : shapes) {
            for (const int64_t cols : widths) {
                const Shape of{shape[0], shape[1], cols};
                check_norm({of, true, true, true, true}, dtype, report);
                check_norm({of, true, false, true, true}, dtype, report);
                check_norm({of, true, true, false, false}, dtype, report);
                check_norm({of, false, false, true, false}, dtype, report);
                check_norm({of, false, false, false, true}, dtype, report);
            }
        }
        WARN("residual_norm, " << engine::name_of(dtype) << ": " << report.str());
    }
}

void check_gelu(int64_t rows, int64_t cols, const LsqStep& step, DType dtype, Report& report) {
    const std::string where =
        engine::concat(engine::name_of(dtype), " ", rows, " x ", cols, step.defined() ? " step" : "",
                       step.beta.defined() ? " offset" : "");
    INFO(where);
    const Tensor z = values_of("z", {rows, cols}, dtype, 3.0), q = z.like(), exact_z = in_f32(z);
    const Tensor exact_q = exact_z.like();
    on_gpu().gelu_quantize(z, step, q);
    engine::composed::gelu_quantize(exact_z, step, exact_q);
    std::vector<size_t> different;
    if (step.defined()) {
        different = report.check_codes(q, exact_q);
    } else {
        report.check("q", q, exact_q, dtype, where);
    }

    const Tensor dq = values_of("dq", {rows, cols}, dtype, 1.0, 0.1);
    struct Out {
        Tensor dz, q, dalpha, dbeta, dbias;
    };
    const auto outputs = [&](const Tensor& like) -> Out {
        return {like.like(), like.like(), step.defined() ? step.alpha.like() : Tensor(),
                step.beta.defined() ? step.beta.like() : Tensor(), Tensor({cols}, DType::f32, kGpu)};
    };
    const Out out = outputs(z), exact = outputs(exact_z);
    on_gpu().gelu_quantize_backward(dq, z, step, out.dz, out.q, out.dalpha, out.dbeta, out.dbias);
    engine::composed::gelu_quantize_backward(in_f32(dq), exact_z, step, exact.dz, exact.q, exact.dalpha,
                                             exact.dbeta, exact.dbias);
    CHECK(out.q.to_vector() == q.to_vector());
    report.check("dz", out.dz, exact.dz, dtype, where);
    report.check("dbias", out.dbias, exact.dbias, dtype, where);
    const std::vector<double> upstream = dq.to_vector();
    if (step.defined())
        report.check_step("dalpha", out.dalpha, exact.dalpha, upstream, different, dtype, where);
    if (step.beta.defined()) {
        // a sum of dq where it is clipped: nothing of a single code
        const double size = std::max(std::abs(exact.dbeta.item()), 0.3 * l2_norm(upstream));
        const double error = std::abs(out.dbeta.item() - exact.dbeta.item());
        INFO("dbeta " << out.dbeta.item() << ", expected " << exact.dbeta.item());
        CHECK(error <= tolerance_of(dtype) * size);
    }
}

void check_gelus(const std::vector<int64_t>& rows, const std::vector<int64_t>& widths) {
    const LsqStep steps[] = {
        {}, step_of(CodeRange::signed_bits(4), 0.31), step_of(CodeRange::unsigned_bits(4), 0.17, -0.16)};
    for (const DType dtype : {DType::f32, DType::bf16}) {
        Report report;
        for (const int64_t r : rows) {
            for (const int64_t cols : widths) {
                for (const LsqStep& step : steps) check_gelu(r, cols, step, dtype, report);
            }
        }
        WARN("gelu_quantize, " << engine::name_of(dtype) << ": " << report.str());
    }
}

const std::vector<int64_t> kWidths = {31, 49, 192, 197, 384, 768};

}  // namespace

TEST_CASE("gpu fused: residual_norm agrees with its composition", "[gpu]") {
    if (gpu_missing()) return;
    check_norms({{1, 1, 0}, {31, 1, 0}, {1, 197, 0}, {8, 197, 0}}, kWidths);
}

TEST_CASE("gpu fused: residual_norm, small", "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    check_norms({{1, 1, 0}, {5, 7, 0}}, {31, 192, 197});
}

TEST_CASE("gpu fused: gelu_quantize agrees with its composition", "[gpu]") {
    if (gpu_missing()) return;
    check_gelus({1, 31, 197, 1576}, kWidths);
}

TEST_CASE("gpu fused: gelu_quantize, small", "[gpu][gpu-ops]") {
    if (gpu_missing()) return;
    check_gelus({1, 35}, {31, 192, 197});
}
