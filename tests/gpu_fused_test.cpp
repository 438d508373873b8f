// Fused LayerNorm and GELU passes on the GPU against their composition (engine/composed.h) in f64 on the CPU,
// on the same values: what is rounded to bf16 between two products is what the fused kernel reads, so that
// nothing but its own arithmetic can differ. (On the GPU layer_norm is the fused kernel without a step.)
//
// Where a value lies within rounding of a tie, or of an end of the range, its code, or whether it is clipped,
// may differ. Such values are found in the reference; their codes are not compared, and their upstream
// gradient is set to zero, so that no gradient depends on which side they are taken to be.
#include <algorithm>
#include <cmath>

#include "engine/composed.h"
#include "tests/catch.h"
#include "tests/gpu_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::CodeRange;
using engine::DType;
using engine::QuantParams;
using engine::Shape;
using engine::Tensor;

namespace {

constexpr double kG = 0.37;  // gradient scale of steps

/// The limits. Measured against the composition on an H200: bf16 2.0e-3; f32 1.2e-7 (gelu_quantize).
double tolerance_of(DType dtype) { return dtype == DType::bf16 ? 1e-2 : 1e-5; }

/// f32 leaves v = (x - o) / a off by less than this times max(1, |v|).
constexpr double kBeside = 2e-5;
constexpr double kMostBeside = 2e-3;  // of all values; there are 1.3e-3 in gelu_quantize in bf16, else 3e-4

Tensor values_of(const std::string& name, const Shape& shape, DType dtype, double scale,
                 double offset = 0.0) {
    return Tensor::from(exact_fill(dtype, name, shape.numel(), scale, offset), shape, dtype, kGpu);
}

QuantParams step_of(CodeRange range, double alpha, double beta = 0.0) {
    return kernel_params(gpu_vector({alpha}, DType::f32),
                         beta == 0 ? Tensor() : gpu_vector({beta}, DType::f32), range,
                         gpu_vector({kG}, DType::f32));
}

Tensor exactly(const Tensor& x) { return x.defined() ? as_f64(x) : Tensor(); }
QuantParams exactly(const QuantParams& step) {
    if (!step.defined()) return {};
    return kernel_params(as_f64(step.scale), exactly(step.offset), range_of(step), as_f64(step.grad_scale));
}

/// v = (x - o) / a of each value.
std::vector<double> steps_of(const Tensor& x, const QuantParams& step) {
    std::vector<double> values = x.to_vector();
    const double a = step.scale.item(), o = step.offset.defined() ? step.offset.item() : 0.0;
    for (double& value : values) value = (value - o) / a;
    return values;
}

bool is_beside(double v, CodeRange range) {
    const double tie = std::abs(v - std::floor(v) - 0.5);
    const double end = std::min(std::abs(v - range.low), std::abs(v - range.high));
    return std::min(tie, end) <= kBeside * std::max(1.0, std::abs(v));
}

/// Errors of one pass, of each dtype.
struct Report {
    Worst values, steps;
    int64_t beside = 0, codes = 0;

    void check(const char* what, const Tensor& y, const Tensor& expected, DType dtype,
               const std::string& where) {
        const double error = l2_error(y.to_vector(), expected.to_vector());
        INFO(what << " " << error);
        values.note(error, where + " " + what);
        CHECK(error <= tolerance_of(dtype));
        CHECK_FALSE(l2_error(scaled(y.to_vector(), 1.05), expected.to_vector()) <= tolerance_of(dtype));
    }
    /// Which values lie beside ties or ends.
    std::vector<size_t> check_codes(const Tensor& q, const Tensor& expected, const std::vector<double>& v,
                                    CodeRange range) {
        const std::vector<double> a = q.to_vector(), b = expected.to_vector();
        std::vector<size_t> uncertain;
        size_t wrong = 0;
        for (size_t i = 0; i < a.size(); ++i) {
            const bool open = is_beside(v[i], range);
            if (open) uncertain.push_back(i);
            if (!(std::abs(a[i] - b[i]) <= (open ? 1.0 : 0.0))) ++wrong;
        }
        INFO(uncertain.size() << " of " << a.size() << " beside ties and ends");
        CHECK(wrong == 0);
        beside += static_cast<int64_t>(uncertain.size());
        codes += static_cast<int64_t>(a.size());
        return uncertain;
    }
    /// A step's gradient is a sum that cancels: against the norm of its terms g dq (q - in v).
    void check_step(const char* what, const Tensor& d, const Tensor& expected, double terms, DType dtype,
                    const std::string& where) {
        const double size = std::max(std::abs(expected.item()), terms);
        const double error = std::abs(d.item() - expected.item());
        INFO(what << " " << d.item() << ", expected " << expected.item() << ", norm of terms " << terms);
        steps.note(error / size, where + " " + what);
        CHECK(error <= tolerance_of(dtype) * size);
    }
    /// At the end of all cases.
    void check_share() const {
        CHECK(static_cast<double>(beside) <= kMostBeside * static_cast<double>(codes));
    }
    std::string str() const {
        return engine::concat("values ", values.str(), "; steps ", steps.str(), "; ", beside, " of ", codes,
                              " beside ties and ends");
    }
};

/// dq with zeros at `where`.
Tensor without(const Tensor& dq, const std::vector<size_t>& where) {
    std::vector<double> values = dq.to_vector();
    for (const size_t i : where) values[i] = 0.0;
    return Tensor::from(values, dq.shape(), dq.dtype(), kGpu);
}

/// Norms of the terms of the gradients of a step and its offset.
std::pair<double, double> norms_of_terms(const Tensor& dq, const std::vector<double>& v, CodeRange range) {
    const std::vector<double> d = dq.to_vector();
    double alpha = 0, beta = 0;
    for (size_t i = 0; i < d.size(); ++i) {
        const double clamped =
            std::clamp(v[i], static_cast<double>(range.low), static_cast<double>(range.high));
        const bool in = clamped == v[i];
        alpha += std::pow(kG * d[i] * (std::nearbyint(clamped) - (in ? v[i] : 0.0)), 2);
        beta += in ? 0.0 : d[i] * d[i];
    }
    return {std::sqrt(alpha), std::sqrt(beta)};
}

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
    const QuantParams step = c.quantized ? step_of(CodeRange::signed_bits(4), 0.21) : QuantParams{};
    const Tensor y = c.branch ? x.like() : x, q = x.like();
    const Tensor mean({c.shape.rows()}, DType::f32, kGpu), rstd = mean.like();
    on_gpu().residual_norm(x, f, keep, gamma, beta, 1e-6, step, c.branch ? y : Tensor(), q, mean, rstd);

    if (c.branch) {
        const Tensor sum(c.shape, DType::f64);
        on_cpu().residual(as_f64(x), as_f64(f), c.keep ? as_f64(keep) : Tensor(), sum);
        CHECK(l2_error(y.to_vector(), sum.to_vector()) <= (dtype == DType::bf16 ? 3e-3 : 1e-6));
    }
    const Tensor exact_y = as_f64(y), exact_gamma = as_f64(gamma), exact_beta = as_f64(beta);
    const QuantParams exact_step = exactly(step);
    const Tensor n = exact_y.like(), exact_mean = as_f64(mean).like(), exact_rstd = exact_mean.like();
    on_cpu().layer_norm(exact_y, exact_gamma, exact_beta, 1e-6, n, exact_mean, exact_rstd);
    CHECK(largest_difference(mean.to_vector(), exact_mean.to_vector()) <= 1e-6);
    CHECK(l2_error(rstd.to_vector(), exact_rstd.to_vector()) <= 1e-5);
    Tensor dq = values_of("dq", c.shape, dtype, 1.0, 0.1);
    double terms = 0;
    if (c.quantized) {
        const std::vector<double> v = steps_of(n, exact_step);
        const Tensor codes = n.like();
        on_cpu().lsq_codes(n, exact_step, codes);
        dq = without(dq, report.check_codes(q, codes, v, range_of(step)));
        terms = norms_of_terms(dq, v, range_of(step)).first;
    } else {
        report.check("q", q, n, dtype, where);
    }

    const Tensor dy = c.upstream ? values_of("dy", c.shape, dtype, 1.0, 0.1) : Tensor();
    struct Out {
        Tensor dx, df, dgamma, dbeta, dalpha;
    };
    const auto outputs = [&](const Tensor& like, const Tensor& of_gamma, const QuantParams& of_step) -> Out {
        return {like.like(), c.keep ? like.like() : Tensor(), of_gamma.like(), of_gamma.like(),
                c.quantized ? of_step.scale.like() : Tensor()};
    };
    const Out out = outputs(y, gamma, step), exact = outputs(exact_y, exact_gamma, exact_step);
    on_gpu().residual_norm_backward(dq, dy, y, keep, gamma, beta, mean, rstd, step, out.dx, out.df,
                                    out.dgamma, out.dbeta, out.dalpha);
    engine::composed::residual_norm_backward(as_f64(dq), exactly(dy), exact_y, exactly(keep), exact_gamma,
                                             exact_beta, exact_mean, exact_rstd, exact_step, exact.dx,
                                             exact.df, exact.dgamma, exact.dbeta, exact.dalpha);
    report.check("dx", out.dx, exact.dx, dtype, where);
    if (c.keep) report.check("df", out.df, exact.df, dtype, where);
    report.check("dgamma", out.dgamma, exact.dgamma, dtype, where);
    report.check("dbeta", out.dbeta, exact.dbeta, dtype, where);
    if (c.quantized) report.check_step("dalpha", out.dalpha, exact.dalpha, terms, dtype, where);
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
        report.check_share();
        WARN("residual_norm, " << engine::name_of(dtype) << ": " << report.str());
    }
}

void check_gelu(int64_t rows, int64_t cols, const QuantParams& step, DType dtype, Report& report) {
    const std::string where =
        engine::concat(engine::name_of(dtype), " ", rows, " x ", cols, step.defined() ? " step" : "",
                       step.offset.defined() ? " offset" : "");
    INFO(where);
    const Tensor z = values_of("z", {rows, cols}, dtype, 3.0), q = z.like(), exact_z = as_f64(z);
    const QuantParams exact_step = exactly(step);
    const Tensor h = exact_z.like(), codes = exact_z.like();
    on_gpu().gelu_quantize(z, step, q);
    on_cpu().gelu(exact_z, h);
    Tensor dq = values_of("dq", {rows, cols}, dtype, 1.0, 0.1);
    std::pair<double, double> terms;
    if (step.defined()) {
        const std::vector<double> v = steps_of(h, exact_step);
        on_cpu().lsq_codes(h, exact_step, codes);
        dq = without(dq, report.check_codes(q, codes, v, range_of(step)));
        terms = norms_of_terms(dq, v, range_of(step));
    } else {
        report.check("q", q, h, dtype, where);
    }

    struct Out {
        Tensor dz, q, dalpha, dbeta, dbias;
    };
    const auto outputs = [&](const Tensor& like, const QuantParams& of, DType master) -> Out {
        return {like.like(), like.like(), of.defined() ? of.scale.like() : Tensor(),
                of.offset.defined() ? of.offset.like() : Tensor(), Tensor({cols}, master, like.device())};
    };
    const Out out = outputs(z, step, DType::f32), exact = outputs(exact_z, exact_step, DType::f64);
    on_gpu().gelu_quantize_backward(dq, z, step, out.dz, out.q, out.dalpha, out.dbeta, out.dbias);
    engine::composed::gelu_quantize_backward(as_f64(dq), exact_z, exact_step, exact.dz, exact.q, exact.dalpha,
                                             exact.dbeta, exact.dbias);
    CHECK(out.q.to_vector() == q.to_vector());  // backward takes the codes that forward took
    report.check("dz", out.dz, exact.dz, dtype, where);
    report.check("dbias", out.dbias, exact.dbias, dtype, where);
    if (step.defined()) report.check_step("dalpha", out.dalpha, exact.dalpha, terms.first, dtype, where);
    if (step.offset.defined()) report.check_step("dbeta", out.dbeta, exact.dbeta, terms.second, dtype, where);
}

void check_gelus(const std::vector<int64_t>& rows, const std::vector<int64_t>& widths) {
    const QuantParams steps[] = {
        {}, step_of(CodeRange::signed_bits(4), 0.31), step_of(CodeRange::unsigned_bits(4), 0.17, -0.16)};
    for (const DType dtype : {DType::f32, DType::bf16}) {
        Report report;
        for (const int64_t r : rows) {
            for (const int64_t cols : widths) {
                for (const QuantParams& step : steps) check_gelu(r, cols, step, dtype, report);
            }
        }
        report.check_share();
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
