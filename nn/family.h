// family: the sizes of a model, and what a family of models says about itself. Flags, checkpoints and checks
// are loops over the fields of a family; nothing else knows which families there are.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/dtype.h"
#include "nn/position_grid.h"

namespace vvtq::nn {

class Model;

/// The value of one size.
using Size = std::variant<int64_t, double, std::vector<int64_t>>;

/// "3", "3.6", "3 6 12".
std::string size_text(const Size& size);

/// Sizes of a model. `model_config(name)` gives the published ones; flags change single fields.
struct ModelConfig {
    std::string name;    // published name, with _quant
    std::string family;  // the name of its Family
    int64_t img_size = 224;
    int64_t patch_size = 16;  // of sret: how much smaller the stem makes a picture
    int64_t in_chans = 3;
    int64_t num_classes = 1000;
    int64_t embed_dim = 192;             // of the first stage
    int64_t depth = 12;                  // deit
    int64_t num_heads = 3;               // deit
    std::vector<int64_t> depths, heads;  // of each stage, which are as wide as embed_dim 2^s: swin, sret
    int64_t window_size = 7;             // swin, in tokens
    double np_ratio = 1.0;               // sret: MLP ratio of the layers without projections
    double mlp_ratio = 4.0;
    double drop_path = 0.0;           // stochastic depth rate of the last block
    std::map<std::string, Size> own;  // sizes that one family alone has, by the names of its fields
};

/// The values that a size may have. Of a list: each of its numbers.
struct Bounds {
    double low, high;
    bool above_low = false, below_high = false;  // whether low and high themselves are not allowed

    bool hold(double value) const;  // false for NaN
    /// "1 to 1000", "above 0 and at most 64".
    std::string text() const;
};

/// One size of a family's models.
struct Field {
    static constexpr std::monostate own{};  // where: ModelConfig::own, under the field's name
    using Where = std::variant<std::monostate, int64_t ModelConfig::*, double ModelConfig::*,
                               std::vector<int64_t> ModelConfig::*>;

    std::string name;  // "embed_dim"; messages have it in backquotes, where apps/ puts the flag
    Where where;
    Bounds bounds;
    std::string help = {};  // of the flag; where it is empty there is none
    std::string key = {};   // the name in checkpoints, where it is another

    const std::string& key_in_files() const { return key.empty() ? name : key; }
    Size get(const ModelConfig& config) const;
    /// Throws Error(Fault::internal) where `size` is of another kind than the field.
    void set(ModelConfig& config, const Size& size) const;
    /// Throws Error(Fault::input) naming the field where its value is out of its bounds. A list may have 1 to
    /// 8 numbers.
    void check(const ModelConfig& config) const;
};

/// A family of models: one object from which a program can list, build, save and load its models.
struct Family {
    std::string name;
    std::vector<ModelConfig> presets;  // published models; `family` is filled in by `register_family`
    std::vector<Field> fields;         // every size that decides a tensor's shape must be among them
    /// Builds the model of sizes within bounds, start values of norms and biases included; those of weights
    /// are drawn afterwards. Sizes that do not fit each other throw Error(Fault::input) naming the fields.
    std::function<std::unique_ptr<Model>(const ModelConfig& config, engine::DType dtype)> build;
    /// The grid of a parameter that depends on the size of pictures or windows; nothing for the others.
    std::function<std::optional<PositionGrid>(const std::string& parameter)> positions = {};
    /// Why its models can be evaluated and asked as teachers but not trained; empty where they can.
    std::string not_trained = {};

    /// The field that a flag may ask for; null where there is none of this name.
    const Field* askable(const std::string& field) const;
};

/// The fields that every family here has: picture size and channels, classes, width, MLP ratio, drop path.
std::vector<Field> common_fields();

/// All families: those of nn/ and those that were registered. References stay valid.
const std::deque<Family>& families();
/// Adds a family, before models of it are named. Throws Error(Fault::internal) where its name or that of a
/// preset is taken. Not thread-safe.
void register_family(Family family);
/// The family of a config. Throws Error(Fault::input) where there is none of that name.
const Family& family_of(const ModelConfig& config);

/// The sizes of a published model, named with or without its suffix `_quant`:
/// deit_{tiny,small,base}[_distilled]_patch16_224[_quant], swin_{tiny,small,base}_patch4_window7_224[_quant],
/// SReT_{T,LT,S}[_quant], and deit_nano_patch4_28[_quant] for small pictures; those of registered families
/// too. Throws Error(Fault::input) listing the known names.
ModelConfig model_config(const std::string& name);
/// All names that model_config knows.
std::vector<std::string> model_names();

}  // namespace vvtq::nn
