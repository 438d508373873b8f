#include "tests/golden_comparison.h"

#include <algorithm>
#include <cmath>

#include "engine/check.h"

namespace vvtq::tests {

void Comparison::add(const std::string& kind, const std::string& what, double value, double reference,
                     double scale, double tolerance) {
    const double error = value == reference ? 0.0 : std::abs(value - reference) / scale;
    Worst& worst = worst_[kind];
    ++worst.count;
    if (!std::isnan(worst.error) && !(error <= worst.error)) worst = {error, what, worst.count};
    if (!(error <= tolerance)) fail(engine::concat(kind, " ", what, ": ", error, ", allowed ", tolerance));
}

void Comparison::add_digest(const std::string& kind, const std::string& name, const engine::Tensor& tensor,
                            const nlohmann::json& digest, double floor, double tolerance) {
    const std::vector<double> values = tensor.to_vector();
    const auto head = digest.at("head").get<std::vector<double>>();
    const size_t n = digest.at("n").get<size_t>();
    if (values.size() != n || head.size() != std::min<size_t>(n, 6)) {
        fail(engine::concat(kind, " ", name, ": ", values.size(), " values, not ", n, " with ", head.size(),
                            " listed"));
        return;
    }
    double sum = 0, squares = 0;
    for (const double v : values) {
        sum += v;
        squares += v * v;
    }
    const double scale = std::max(digest.at("l2").get<double>(), floor);
    add(kind, name + " sum", sum, digest.at("sum").get<double>(), scale, tolerance);
    add(kind, name + " l2", std::sqrt(squares), digest.at("l2").get<double>(), scale, tolerance);
    for (size_t i = 0; i < head.size(); ++i) {
        add(kind, engine::concat(name, "[", i, "]"), values[i], head[i], scale, tolerance);
    }
}

void Comparison::add_logits(const std::string& kind, const engine::Tensor& logits, const nlohmann::json& rows,
                            double tolerance) {
    const auto reference = rows.get<std::vector<std::vector<double>>>();
    const std::vector<double> values = logits.to_vector();
    const auto classes = static_cast<size_t>(logits.shape()[1]);
    double largest = 0;
    for (const auto& row : reference) {
        for (const double z : row) largest = std::max(largest, std::abs(z));
    }
    if (reference.size() * classes != values.size()) {
        fail(engine::concat(kind, ": ", reference.size(), " rows for logits ", logits.shape().str()));
        return;
    }
    for (size_t b = 0; b < reference.size(); ++b) {
        if (reference[b].empty() || reference[b].size() > classes) {
            fail(engine::concat(kind, ": row ", b, " has ", reference[b].size(), " figures"));
            continue;
        }
        for (size_t c = 0; c < reference[b].size(); ++c) {
            add(kind, engine::concat("(", b, ", ", c, ")"), values[b * classes + c], reference[b][c], largest,
                tolerance);
        }
    }
}

void Comparison::add_names(const std::string& kind, const std::set<std::string>& ours,
                           const std::set<std::string>& reference) {
    for (const std::string& name : ours) {
        if (!reference.count(name)) fail(kind + ": the golden has no " + name);
    }
    for (const std::string& name : reference) {
        if (!ours.count(name)) fail(kind + ": the model has no " + name);
    }
}

std::string Comparison::summary() const {
    std::string text;
    for (const auto& [kind, worst] : worst_) {
        text += engine::concat("\n  ", kind, ": ", worst.count, " figures, worst ", worst.error, " at ",
                               worst.what);
    }
    return text;
}

}  // namespace vvtq::tests
