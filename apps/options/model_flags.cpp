#include "apps/options/model_flags.h"

namespace vvtq::apps {
namespace {

/// The sizes that flags can ask for, each name once; their values in `sizes` are "not asked for". A size that
/// is a list in one family and a number in another is a list.
std::vector<nn::Field> askable_fields(std::map<std::string, nn::Size>& sizes) {
    std::vector<nn::Field> fields;
    for (const nn::Family& family : nn::families()) {
        for (const nn::Field& field : family.fields) {
            if (field.help.empty()) continue;
            const nn::Size published = field.get(family.presets.front());
            if (sizes.count(field.name) == 0) fields.push_back(field);
            const bool list = std::holds_alternative<std::vector<int64_t>>(published);
            if (list) {
                sizes[field.name] = std::vector<int64_t>();
            } else if (sizes.count(field.name) == 0) {
                sizes[field.name] =
                    std::holds_alternative<double>(published) ? nn::Size(0.0) : nn::Size(int64_t{0});
            }
        }
    }
    return fields;
}

}  // namespace

void add_model(FlagTable& flags, ModelFlags& model, bool trains) {
    flags.group("Model");
    flags.add("--model", model.name, "published name, such as deit_tiny_patch16_224_quant");
    for (const nn::Field& field : askable_fields(model.sizes)) {
        std::visit(
            [&](auto& target) {
                const bool list = std::is_same_v<decltype(target), std::vector<int64_t>&>;
                flags.add(flag_of(field.name), target,
                          field.help + (list ? "; left out: the model's own" : "; 0: the model's own"));
            },
            model.sizes.at(field.name));
    }
    if (trains) {
        flags.add("--num_classes", model.num_classes, "0: as many as the data set has");
        flags.add("--drop-path", model.drop_path, "stochastic depth rate of the last block", true);
    }
}

void add_foreign_model(FlagTable& flags, Options& o) {
    add_model(flags, o.model, false);
    flags.add("--num_classes", o.model.num_classes, "0: as many as the file has");
    flags.add("--wbits", o.quantizer.wbits, "needed where a quantized file does not say its bit widths");
    flags.add("--abits", o.quantizer.abits, "needed where a quantized file does not say its bit widths");
}

}  // namespace vvtq::apps
