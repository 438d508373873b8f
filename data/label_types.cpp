#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "data/bytes.h"
#include "data/label_types.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

constexpr std::array<const char*, 6> kNames{
    "ori", "hard", "smoothing", "marginal_smoothing_k5", "marginal_smoothing_k10", "marginal_renorm"};

}  // namespace

LabelType parse_label_type(const std::string& name) {
    if (name == "marginal_renorm_k5") return LabelType::marginal_renorm;
    for (size_t i = 0; i < kNames.size(); ++i) {
        if (name == kNames[i]) return static_cast<LabelType>(i);
    }
    engine::input_error(
        "`label_type` ", printable(name),
        ": unknown; use ori, hard, smoothing, marginal_smoothing_k5, marginal_smoothing_k10 or "
        "marginal_renorm");
}

const char* label_type_name(LabelType type) { return kNames.at(static_cast<size_t>(type)); }

int label_indices(LabelType type) {
    switch (type) {
        case LabelType::ori:
            return 0;
        case LabelType::hard:
        case LabelType::smoothing:
            return 1;
        case LabelType::marginal_smoothing_k5:
        case LabelType::marginal_renorm:
            return 5;
        case LabelType::marginal_smoothing_k10:
            return 10;
    }
    engine::internal_error("label type ", static_cast<uint32_t>(type));
}

int label_values(LabelType type, int classes) {
    if (type == LabelType::ori) return classes;
    return type == LabelType::hard ? 0 : label_indices(type);
}

void require_label_fits(LabelType type, int classes) {
    if (classes > 0 && label_indices(type) <= classes) return;
    std::string fitting;
    for (size_t i = 0; i < kNames.size(); ++i) {
        if (label_indices(static_cast<LabelType>(i)) > classes) continue;
        fitting += (fitting.empty() ? "" : ", ") + std::string(kNames[i]);
    }
    engine::input_error("`label_type` ", label_type_name(type), " keeps ", label_indices(type),
                        " classes of a label, but there are ", classes, ": use one of ", fitting);
}

template <typename Real>
void pack_label(LabelType type, std::span<const Real> p, std::span<int32_t> index, std::span<Real> value) {
    const auto classes = static_cast<int>(p.size());
    VVTQ_CHECK(static_cast<int>(index.size()) == label_indices(type) &&
                   static_cast<int>(value.size()) == label_values(type, classes) && index.size() <= p.size(),
               index.size(), " indices, ", value.size(), " values, ", classes, " classes");
    for (const Real each : p) {
        if (!std::isfinite(each))
            engine::run_error("a soft label is not finite: check the teacher's weights");
    }
    if (type == LabelType::ori) {
        std::copy(p.begin(), p.end(), value.begin());
        return;
    }
    // Insertion into a short sorted list: one pass over p, and a tie stays behind its lower class.
    size_t kept = 0;
    for (int c = 0; c < classes; ++c) {
        const Real candidate = p[static_cast<size_t>(c)];
        size_t at = kept;
        while (at > 0 && candidate > p[static_cast<size_t>(index[at - 1])]) --at;
        if (at == index.size()) continue;
        if (kept < index.size()) ++kept;
        for (size_t i = kept - 1; i > at; --i) index[i] = index[i - 1];
        index[at] = c;
    }
    for (size_t i = 0; i < value.size(); ++i) value[i] = p[static_cast<size_t>(index[i])];
}

template <typename Real>
void recover_label(LabelType type, std::span<const int32_t> index, std::span<const Real> value,
                   std::span<Real> p) {
    const auto classes = static_cast<int>(p.size());
    VVTQ_CHECK(static_cast<int>(index.size()) == label_indices(type) &&
                   static_cast<int>(value.size()) == label_values(type, classes) && index.size() <= p.size(),
               index.size(), " indices, ", value.size(), " values, ", classes, " classes");
    if (type == LabelType::ori) {
        std::copy(value.begin(), value.end(), p.begin());
        return;
    }
    const double sum = std::accumulate(value.begin(), value.end(), 0.0);
    const bool spread = type == LabelType::smoothing || type == LabelType::marginal_smoothing_k5 ||
                        type == LabelType::marginal_smoothing_k10;
    const bool others = p.size() > index.size();
    const double rest = spread && others ? (1.0 - sum) / static_cast<double>(p.size() - index.size()) : 0.0;
    std::fill(p.begin(), p.end(), static_cast<Real>(rest));
    for (size_t i = 0; i < index.size(); ++i) {
        VVTQ_CHECK(index[i] >= 0 && index[i] < classes, "class ", index[i], " of ", classes);
        Real& target = p[static_cast<size_t>(index[i])];
        if (type == LabelType::hard) {
            target = Real{1};
        } else if (type == LabelType::marginal_renorm) {
            target = static_cast<Real>(value[i] / sum);
        } else {
            target = value[i];
        }
    }
}

template void pack_label(LabelType, std::span<const float>, std::span<int32_t>, std::span<float>);
template void pack_label(LabelType, std::span<const double>, std::span<int32_t>, std::span<double>);
template void recover_label(LabelType, std::span<const int32_t>, std::span<const float>, std::span<float>);
template void recover_label(LabelType, std::span<const int32_t>, std::span<const double>, std::span<double>);

}  // namespace vvtq::data
