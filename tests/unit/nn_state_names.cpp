// Names of other programs' files.
#include "nn/state_names.h"

#include <set>

#include "tests/catch.h"

using namespace vvtq::nn;

namespace {

StateNames names_of(const std::set<std::string>& names) {
    return StateNames([names](const std::string& name) { return names.count(name) != 0; });
}

std::string found(const StateNames& names, const std::string& name) {
    const auto place = names.place(name);
    if (!place) return "nothing";
    return place->name +
           (place->parts == 1 ? "" : " " + std::to_string(place->part) + "/" + std::to_string(place->parts));
}

}  // namespace

TEST_CASE("state names: queries, keys and values are thirds of qkv") {
    const StateNames names = names_of({"blocks.1.attn.qkv.weight", "blocks.1.attn.qkv.bias", "norm.weight",
                                       "blocks.2.attn.proj_q.weight", "blocks.2.attn.qkv.weight"});
    CHECK(found(names, "norm.weight") == "norm.weight");
    CHECK(found(names, "norm.bias") == "nothing");
    CHECK(found(names, "blocks.1.attn.proj_q.weight") == "blocks.1.attn.qkv.weight 0/3");
    CHECK(found(names, "blocks.1.attn.proj_v.bias") == "blocks.1.attn.qkv.bias 2/3");
    CHECK(found(names, "blocks.2.attn.proj_q.weight") == "blocks.2.attn.proj_q.weight");
    CHECK(found(names, "blocks.3.attn.proj_q.weight") == "nothing");
}

TEST_CASE("state names: timm's Swin merges at the start of a stage") {
    const StateNames names = names_of({"head.fc.weight", "head.fc.bias", "layers.0.blocks.0.attn.qkv.weight",
                                       "layers.1.downsample.norm.weight", "layers.2.downsample.norm.weight"});
    CHECK(found(names, "head.weight") == "head.fc.weight");
    CHECK(found(names, "layers.0.downsample.norm.weight") == "layers.1.downsample.norm.weight");
    CHECK(found(names, "layers.1.downsample.norm.weight") == "layers.2.downsample.norm.weight");
    CHECK(found(names, "layers.2.downsample.norm.weight") == "nothing");
    CHECK(found(names, "layers.0.blocks.0.attn.proj_k.weight") == "layers.0.blocks.0.attn.qkv.weight 1/3");
    const StateNames published = names_of({"head.weight", "layers.1.downsample.norm.weight"});
    CHECK(found(published, "layers.1.downsample.norm.weight") == "layers.1.downsample.norm.weight");
    CHECK(found(published, "layers.0.downsample.norm.weight") == "nothing");
    CHECK(StateNames::is_constant("layers.0.blocks.1.attn_mask"));
    CHECK(StateNames::is_constant("layers.0.blocks.0.attn.relative_position_index"));
    CHECK_FALSE(StateNames::is_constant("layers.0.blocks.0.attn.relative_position_bias_table"));
}
