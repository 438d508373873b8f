// golden_comparison: figures of a model against a golden file's, each with its tolerance; NaN fails.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "engine/tensor.h"

namespace vvtq::tests {

/// Collects the errors of one file: the worst of every kind of figure, and what exceeds its tolerance.
class Comparison {
  public:
    /// |value - reference| / scale against `tolerance`; equal values have error 0.
    void add(const std::string& kind, const std::string& what, double value, double reference, double scale,
             double tolerance);
    void fail(const std::string& message) { failures_.push_back(message); }

    /// Sum, l2 and first values of a tensor against {n, sum, l2, head}; scale max(l2, floor).
    void add_digest(const std::string& kind, const std::string& name, const engine::Tensor& tensor,
                    const nlohmann::json& digest, double floor, double tolerance);
    /// Leading columns of logits (B, K) against B rows of figures; scale the largest |figure|.
    void add_logits(const std::string& kind, const engine::Tensor& logits, const nlohmann::json& rows,
                    double tolerance);
    /// Fails with every name that is in one set only.
    void add_names(const std::string& kind, const std::set<std::string>& ours,
                   const std::set<std::string>& reference);

    const std::vector<std::string>& failures() const { return failures_; }
    /// One line for each kind of figure: how many, the worst error, and where it is.
    std::string summary() const;

  private:
    struct Worst {
        double error = 0;
        std::string what = "none";
        int64_t count = 0;
    };
    std::map<std::string, Worst> worst_;
    std::vector<std::string> failures_;
};

}  // namespace vvtq::tests
