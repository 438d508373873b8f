#include "apps/training/state_load.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "data/elements.h"
#include "engine/check.h"
#include "quant/attach.h"

namespace vvtq::apps {
namespace {

constexpr size_t kShown = 6;

/// "a, b, c and 12 more".
std::string list(const std::vector<LoadNote>& notes, const char* between) {
    std::string text;
    for (size_t i = 0; i < std::min(kShown, notes.size()); ++i) {
        text += (i == 0 ? "" : ", ") + data::printable(notes[i].name);
        if (!notes[i].text.empty()) text += between + notes[i].text;
    }
    return notes.size() <= kShown ? text : text + " and " + std::to_string(notes.size() - kShown) + " more";
}

double value_of(const data::StateFile& file, const std::string& name) {
    const std::vector<double> values = file.read<double>(name);
    return values.empty() ? std::nan("") : values.front();
}

int64_t numel_of(const std::vector<int64_t>& shape) {
    int64_t count = 1;
    for (const int64_t dim : shape) count *= dim;
    return count;
}

/// The parameters whose shapes depend on the number of classes.
std::set<std::string> classifier_of(nn::ModelConfig config) {
    const auto model = nn::make_shapes(config, engine::DType::f32);
    config.num_classes += config.num_classes > 1 ? -1 : 1;
    const auto other = nn::make_shapes(config, engine::DType::f32);
    const auto ours = model->parameters(), theirs = other->parameters();
    std::set<std::string> names;
    for (size_t i = 0; i < ours.size(); ++i) {
        if (ours[i].parameter.shape() != theirs[i].parameter.shape()) names.insert(ours[i].name);
    }
    return names;
}

}  // namespace

std::string LoadReport::misfits() const {
    std::vector<LoadNote> all = missing;
    std::stable_partition(all.begin(), all.end(), [](const LoadNote& note) { return note.text.empty(); });
    for (LoadNote& note : all) {
        if (note.text.empty()) note.text = "is missing";
    }
    for (const LoadNote& note : unexpected) all.push_back({note.name, note.text + " is not in the model"});
    return list(all, " ");
}

std::string LoadReport::sorted_misfits() const {
    std::vector<LoadNote> absent, shapes;
    for (const LoadNote& note : missing) (note.text.empty() ? absent : shapes).push_back(note);
    std::string text;
    const auto add = [&](const char* what, const std::vector<LoadNote>& notes) {
        if (!notes.empty()) text += (text.empty() ? "" : "; ") + std::string(what) + list(notes, " ");
    };
    add("missing: ", absent);
    add("other shapes: ", shapes);
    add("not in the model: ", unexpected);
    return text;
}

std::vector<std::string> LoadReport::table(const std::string& path, const std::string& model) const {
    std::vector<std::string> lines = {"=> " + model + " from " + data::printable(path)};
    const auto row = [&](const char* what, size_t count, const std::string& which) {
        char text[64];
        std::snprintf(text, sizeof text, "=>   %-10s %6zu", what, count);
        lines.push_back(text + (which.empty() ? "" : "  " + which));
    };
    row("loaded", loaded.size(), "");
    row("converted", converted.size(), list(converted, ": "));
    row("new", fresh.size(), list(fresh, ": "));
    row("missing", missing.size(), list(missing, " "));
    row("unexpected", unexpected.size(), list(unexpected, " "));
    if (!other_widths.empty()) lines.push_back("=> warning: " + other_widths);
    return lines;
}

StateLoad::StateLoad(const data::StateFile& file, const std::string& path, nn::Model& model,
                     const LoadRules& rules)
    : file_(file),
      path_(path),
      rules_(rules),
      names_([&file](const auto& name) { return file.contains(name); }) {
    find_quantizers(model);
    if (rules.other_classes) find_classifier(model.config());
    std::vector<std::pair<std::string, nn::Tensor>> state;
    for (const nn::NamedParameter& p : model.parameters()) state.emplace_back(p.name, p.parameter.value());
    for (auto& buffer : model.buffers()) state.push_back(std::move(buffer));
    std::stable_partition(state.begin(), state.end(),
                          [](const auto& named) { return named.second.shape().rank() >= 2; });
    std::set<const void*> found;  // memory of tensors that the file has under one of their names
    for (const auto& [name, value] : state) {
        if (names_.place(name)) found.insert(value.memory_id());
    }
    for (const auto& [name, value] : state) {
        if (names_.place(name) || found.count(value.memory_id()) == 0) place(name, value, model);
    }
    note_unexpected(model);
}

void StateLoad::find_quantizers(nn::Model& model) {
    size_t others = 0;
    for (const auto& [path, slot] : quant::slots_by_path(model)) {
        if (slot->get() == nullptr) continue;
        const int bits = slot->get()->describe().bits;
        for (const std::string& state : slot->get()->state_names()) {
            quantizers_[path + "." + state] = {path, bits, slot->idle()};
        }
        if (!rules_.steps || !file_.contains(path + ".init_state")) continue;
        if (!slot->idle() && value_of(file_, path + ".init_state") == 0) {
            engine::input_error(data::printable(path_), ": the quantizer ", path,
                                " was never started (its init_state is 0); name a file of a trained model");
        }
        if (!file_.contains(path + ".nbits")) continue;
        const double stored = std::round(value_of(file_, path + ".nbits"));
        if (stored == bits) continue;
        if (others++ == 0) {
            report_.other_widths =
                engine::concat(path, " was trained with ", stored, " bits and has ", bits, " here");
        }
    }
    if (others > 1) report_.other_widths += engine::concat(", and so ", others - 1, " other quantizers");
    if (others > 0) report_.other_widths += "; the file's steps for the widths here are taken";
}

std::optional<StateLoad::Source> StateLoad::source(const std::string& name, const nn::StatePlace& place,
                                                   const engine::Shape& shape, const nn::Model& model,
                                                   std::string& how) const {
    std::vector<int64_t> stored = file_.entry(place.name).shape;
    Source source{place, -1, std::nullopt};
    if (place.parts > 1) {
        if (stored.empty() || stored[0] % place.parts != 0) return std::nullopt;
        stored[0] /= place.parts;
        how = engine::concat("part ", place.part + 1, " of ", place.parts, " of ", place.name);
    } else if (place.name != name) {
        how = place.name;
    }
    const std::vector<int64_t>& wanted = shape.vec();
    if (stored == wanted || (stored.empty() && shape.numel() == 1)) return source;
    const auto quantizer = quantizers_.find(name);
    if (quantizer != quantizers_.end() && stored == std::vector<int64_t>{kStepWidths} && shape.numel() == 1) {
        source.entry = quantizer->second.bits - kLeastStepBits;
        if (source.entry < 0) return std::nullopt;
        how = engine::concat("the step for ", quantizer->second.bits, " bits");
        return source;
    }
    const auto& positions = nn::family_of(model.config()).positions;
    const auto grid = rules_.other_size && positions ? positions(name) : std::nullopt;
    const int64_t from = grid ? grid->side(stored) : 0, to = grid ? grid->side(wanted) : 0;
    if (from == 0 || to == 0 || numel_of(stored) <= 0 || stored.size() != wanted.size()) return std::nullopt;
    const size_t channels = grid->rows ? stored.size() - 1 : 1;
    if (stored[channels] != wanted[channels]) return std::nullopt;
    source.grid = grid;
    how = engine::concat("interpolated from ", from, " x ", from, " to ", to, " x ", to);
    return source;
}

void StateLoad::place(const std::string& name, const nn::Tensor& value, const nn::Model& model) {
    const auto quantizer = quantizers_.find(name);
    const bool step = quantizer != quantizers_.end();
    if (step && !rules_.steps) return;
    // a classifier that starts anew has new steps too
    const bool anew =
        step && std::any_of(report_.fresh.begin(), report_.fresh.end(), [&](const LoadNote& note) {
            return note.name == quantizer->second.path + ".weight";
        });
    const auto place = names_.place(name);
    if (!place || anew) {
        const bool may = anew || (step && rules_.missing_steps);
        if (may) {
            report_.fresh.push_back({name, ""});
        } else {
            report_.missing.push_back({name, ""});
        }
        return;
    }
    std::string how;
    const auto found = source(name, *place, value.shape(), model, how);
    if (found) {
        sources_[name] = *found;
        if (how.empty()) {
            report_.loaded.push_back(name);
        } else {
            report_.converted.push_back({name, how});
        }
        return;
    }
    const std::vector<int64_t>& stored = file_.entry(place->name).shape;
    const std::vector<int64_t> wanted = value.shape().vec();
    if (classifier_.count(name) != 0 && stored.size() == wanted.size() && !stored.empty() &&
        std::equal(stored.begin() + 1, stored.end(), wanted.begin() + 1)) {
        report_.fresh.push_back({name, engine::concat(stored[0], " classes there, ", wanted[0], " here")});
    } else {
        report_.missing.push_back({name, data::shape_text(stored) + " instead of " + value.shape().str()});
    }
}

// Where the classifier's parts do not agree on the classes, the file is damaged rather than of others.
void StateLoad::find_classifier(const nn::ModelConfig& config) {
    std::set<int64_t> classes;
    std::set<std::string> names = classifier_of(config);
    for (const std::string& name : names) {
        const auto place = names_.place(name);
        if (!place) return;
        const std::vector<int64_t>& shape = file_.entry(place->name).shape;
        classes.insert(shape.empty() ? 0 : shape[0]);
    }
    if (classes.size() == 1 && *classes.begin() != config.num_classes) classifier_ = std::move(names);
}

void StateLoad::note_unexpected(nn::Model& model) {
    std::set<std::string> known;
    for (const nn::NamedParameter& p : model.parameters()) {
        if (const auto place = names_.place(p.name)) known.insert(place->name);
    }
    for (const auto& [name, buffer] : model.buffers()) {
        if (const auto place = names_.place(name)) known.insert(place->name);
    }
    if (!rules_.steps) {
        const std::set<std::string> steps = quant::quantizer_state_names(model);
        known.insert(steps.begin(), steps.end());
    }
    for (const auto& [path, slot] : quant::slots_by_path(model)) {
        known.insert(path + ".nbits");
        known.insert(path + ".init_state");
    }
    for (const auto& [name, entry] : file_.entries()) {
        if (name.starts_with(data::kOptimizerPrefix) || nn::StateNames::is_constant(name)) continue;
        if (known.count(name) == 0) report_.unexpected.push_back({name, data::shape_text(entry.shape)});
    }
}

std::optional<nn::Tensor> StateLoad::tensor(const std::string& name, const engine::Shape& shape,
                                            engine::DType dtype) const {
    const auto found = sources_.find(name);
    if (found == sources_.end()) return std::nullopt;
    const nn::StatePlace& place = found->second.place;
    const int64_t entry = found->second.entry;
    const auto& grid = found->second.grid;
    const nn::Tensor tensor(shape, dtype);
    const auto fill = [&]<typename T>(T* to) {
        std::vector<T> values = file_.read<T>(place.name);
        if (entry >= 0) values = {values.at(static_cast<size_t>(entry))};
        if (grid) {
            const std::vector<double> resized =
                nn::resize_positions({values.begin(), values.end()}, file_.entry(place.name).shape, *grid,
                                     grid->side(shape.vec()));
            values.assign(resized.begin(), resized.end());
        }
        VVTQ_CHECK(static_cast<int64_t>(values.size()) == place.parts * tensor.numel(), name, " ",
                   shape.str());
        std::copy_n(values.begin() + place.part * tensor.numel(), tensor.numel(), to);
    };
    if (dtype == engine::DType::f64) {
        fill(tensor.data<double>());
    } else {
        fill(tensor.data<float>());
    }
    return tensor;
}

std::function<std::vector<int8_t>()> StateLoad::codes(const std::string& name, int bits) const {
    const auto found = sources_.find(name);
    if (found == sources_.end()) return {};
    const data::StateFile::Entry& entry = file_.entry(found->second.place.name);
    const bool whole = found->second.place.parts == 1 && !found->second.grid;
    return whole && entry.bits == bits ? entry.codes : nullptr;
}

bool StateLoad::complete(const std::string& quantizer) const {
    return std::all_of(quantizers_.begin(), quantizers_.end(), [&](const auto& state) {
        return state.second.path != quantizer || sources_.count(state.first) != 0;
    });
}

std::optional<int64_t> stored_classes(const data::StateFile& file, const nn::ModelConfig& config) {
    const nn::StateNames names([&file](const auto& name) { return file.contains(name); });
    for (const std::string& name : classifier_of(config)) {
        const auto place = names.place(name);
        if (place && !file.entry(place->name).shape.empty()) return file.entry(place->name).shape[0];
    }
    return std::nullopt;
}

std::optional<StoredBits> stored_bits(const data::StateFile& file, const std::string& path,
                                      nn::Model& model) {
    StoredBits bits;
    bool any = false;
    for (const auto& [slot_path, slot] : quant::slots(model)) {
        const std::string name = slot_path + ".nbits";
        if (slot->bits() == nn::Bits::always_8 || !file.contains(name)) continue;
        const double value = std::round(value_of(file, name));
        const int width = value >= 1 && value <= 8 ? static_cast<int>(value) : -1;
        int& known = slot->values() == nn::Values::weight ? bits.weights : bits.activations;
        if (any && known != -1 && known != width) {
            engine::input_error(data::printable(path), ": ", slot_path, " has ", width, " bits, others ",
                                known, ": give the widths to use with `wbits` and `abits`");
        }
        known = width;
        any = true;
    }
    return any ? std::optional(bits) : std::nullopt;
}

}  // namespace vvtq::apps
