#include "quant/registry.h"

#include <algorithm>
#include <deque>

#include "quant/binary.h"
#include "quant/lsq.h"

namespace vvtq::quant {

namespace {

template <typename Q>
QuantizerKind kind_of(const char* name) {
    return {name, [](const QuantizerOptions& options) { return std::make_unique<Q>(options); }};
}

std::deque<QuantizerKind>& kinds() {  // references stay valid
    static std::deque<QuantizerKind> all = {kind_of<Lsq>("lsq"), kind_of<Binary>("binary")};
    return all;
}

const QuantizerKind* find(const std::string& name) {
    const auto at = std::find_if(kinds().begin(), kinds().end(),
                                 [&](const QuantizerKind& kind) { return kind.name == name; });
    return at == kinds().end() ? nullptr : &*at;
}

}  // namespace

bool register_quantizer(QuantizerKind kind) {
    VVTQ_CHECK(find(kind.name) == nullptr && kind.make, "the quantizer \"", kind.name, "\" exists already");
    kinds().push_back(std::move(kind));
    return true;
}

const QuantizerKind& quantizer_kind(const std::string& name) {
    if (const QuantizerKind* kind = find(name)) return *kind;
    std::string known;
    for (const std::string& other : quantizer_names()) known += (known.empty() ? "" : ", ") + other;
    engine::input_error("the quantizer ", name, " is unknown: choose one of ", known);
}

std::vector<std::string> quantizer_names() {
    std::vector<std::string> names;
    for (const QuantizerKind& kind : kinds()) names.push_back(kind.name);
    return names;
}

}  // namespace vvtq::quant
