#include "nn/state_names.h"

#include <charconv>
#include <utility>

namespace vvtq::nn {
namespace {

/// The name with `part` replaced; empty where it does not hold it.
std::string replaced(const std::string& name, const std::string& part, const std::string& by) {
    const size_t at = name.find(part);
    if (at == std::string::npos) return "";
    return name.substr(0, at) + by + name.substr(at + part.size());
}

/// "layers.1.downsample.norm.weight" of "layers.0.downsample.norm.weight"; empty where it is no such name.
std::string by_next_stage(const std::string& name) {
    const std::string layers = "layers.", merging = ".downsample.";
    const size_t at = name.find(merging);
    if (!name.starts_with(layers) || at == std::string::npos) return "";
    int stage = 0;
    const char *begin = name.data() + layers.size(), *end = name.data() + at;
    if (std::from_chars(begin, end, stage).ptr != end) return "";
    return layers + std::to_string(stage + 1) + name.substr(at);
}

}  // namespace

StateNames::StateNames(std::function<bool(const std::string&)> has)
    : has_(std::move(has)), timm_swin_(has_("head.fc.weight") && has_("layers.0.blocks.0.attn.qkv.weight")) {}

std::optional<StatePlace> StateNames::place(const std::string& name) const {
    if (timm_swin_) {
        std::string other = by_next_stage(name);
        if (name.starts_with("head.")) other = replaced(name, "head.", "head.fc.");
        if (!other.empty()) return has_(other) ? std::optional(StatePlace{other}) : std::nullopt;
    }
    if (has_(name)) return StatePlace{name};
    const char* projections[] = {"attn.proj_q.", "attn.proj_k.", "attn.proj_v."};
    for (int64_t part = 0; part < 3; ++part) {
        const std::string fused = replaced(name, projections[part], "attn.qkv.");
        if (!fused.empty() && has_(fused)) return StatePlace{fused, part, 3};
    }
    return std::nullopt;
}

bool StateNames::is_constant(const std::string& name) {
    return name.ends_with(".relative_position_index") || name.ends_with(".attn_mask");
}

}  // namespace vvtq::nn
