// state_load: what a model takes from a file whose names, shapes or quantizers are not exactly its own, and
// the report about it.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "data/state_file.h"
#include "nn/model.h"
#include "nn/state_names.h"

namespace vvtq::apps {

// Published quantizers keep a step for each width from 2 to 8 bits.
inline constexpr int64_t kStepWidths = 7;
inline constexpr int kLeastStepBits = 2;

/// What may differ. Everything else that is missing, misfits or is unexpected is an error.
struct LoadRules {
    bool steps = true;           // takes the quantizers' steps and offsets; without, they start anew
    bool missing_steps = false;  // steps that the file does not have start anew
    bool other_classes = false;  // a classifier of other classes starts anew
    bool other_size = false;     // position grids of other sizes are interpolated
    bool partial = false;        // what is missing or misfits starts anew, the unexpected is left out
    bool codes = false;  // weights stay integer codes where the file has those of all, and all products of
                         // the model can be integer: for nn::Products::integers
};

/// A tensor and what is to say of it.
struct LoadNote {
    std::string name, text;
};

struct LoadReport {
    std::vector<std::string> loaded;
    std::vector<LoadNote> converted, fresh;     // fresh: keeps its start value
    std::vector<LoadNote> missing, unexpected;  // missing: not in the file, or of another shape
    std::string other_widths;                   // of quantizers that the file has for other bit widths

    bool exact() const { return converted.empty() && fresh.empty() && complete(); }
    bool complete() const { return missing.empty() && unexpected.empty(); }
    /// What does not fit, in one line: up to six tensors and the number of the others; what is missing first,
    /// matrices before vectors.
    std::string misfits() const;
    /// The same sorted: "missing: a, b; other shapes: c (3) instead of (10); not in the model: d".
    std::string sorted_misfits() const;
    /// A table for the log: how many tensors were loaded, converted, new, missing and unexpected, and which.
    std::vector<std::string> table(const std::string& path, const std::string& model) const;
};

/// How the tensors of one model come out of one file. Both must outlive it.
class StateLoad {
  public:
    /// Reads nothing but names and shapes, and `init_state` and `nbits` of published quantizers. Throws
    /// Error(Fault::input) naming a quantizer that was never started.
    StateLoad(const data::StateFile& file, const std::string& path, nn::Model& model, const LoadRules& rules);

    const LoadReport& report() const { return report_; }
    /// The values for the model's tensor `name`; nothing where it keeps its start value.
    std::optional<nn::Tensor> tensor(const std::string& name, const engine::Shape& shape,
                                     engine::DType dtype) const;
    /// The integer codes of the weight `name`, where the file has them with so many bits; else nothing.
    std::function<std::vector<int8_t>()> codes(const std::string& name, int bits) const;
    /// Whether every tensor below the path `quantizer` has a value.
    bool complete(const std::string& quantizer) const;

  private:
    /// How a tensor gets its value.
    struct Source {
        nn::StatePlace place;
        int64_t entry = -1;  // of the steps for each bit width
        std::optional<nn::PositionGrid> grid;
    };
    /// A quantizer of the model.
    struct Quantizer {
        std::string path;
        int bits;
        bool idle;
    };

    void find_quantizers(nn::Model& model);
    void place(const std::string& name, const nn::Tensor& value, const nn::Model& model);
    void note_unexpected(nn::Model& model);
    void find_classifier(const nn::ModelConfig& config);
    /// The place for a tensor of this shape, with words for the report; nothing where the shapes misfit.
    std::optional<Source> source(const std::string& name, const nn::StatePlace& place,
                                 const engine::Shape& shape, const nn::Model& model, std::string& how) const;

    const data::StateFile& file_;
    std::string path_;
    LoadRules rules_;
    nn::StateNames names_;
    std::map<std::string, Quantizer> quantizers_;  // by the names of their states
    std::map<std::string, Source> sources_;
    std::set<std::string> classifier_;  // of other classes in the file than in the model; else empty
    LoadReport report_;
};

/// The classes of the classifier in a file; nothing where it has none for models of these sizes.
std::optional<int64_t> stored_classes(const data::StateFile& file, const nn::ModelConfig& config);

/// The bit widths of the quantizers in a published file, from `nbits`: of weights and activations whose width
/// is configured, -1 where there are none. Nothing where the file has no `nbits`. Throws Error(Fault::input)
/// where they differ from layer to layer.
struct StoredBits {
    int weights = -1, activations = -1;
};
std::optional<StoredBits> stored_bits(const data::StateFile& file, const std::string& path, nn::Model& model);

}  // namespace vvtq::apps
