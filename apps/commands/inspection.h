// inspection: the parts of `vvtq inspect`. Each adds to one JSON object, from which the terminal's tables are
// printed, too. Its fields are described in docs/commands.md.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/options/options.h"
#include "apps/training/checkpoint.h"
#include "apps/training/compute.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "nn/model.h"
#include "quant/inspect/inspect.h"
#include "quant/inspect/operations.h"

namespace vvtq::apps {

using nlohmann::ordered_json;

/// A quantized model and what one picture costs it.
struct Inspected {
    std::string path;
    Compute compute;
    std::unique_ptr<nn::Model> model;
    std::vector<std::pair<std::string, nn::QuantizerSlot*>> slots;  // those with a quantizer
    quant::PictureCost cost;
    std::map<std::string, int> bits;  // by path
    ordered_json json;                // "format" to "bit_operations", then "quantizers"

    /// The entry of `json` for a quantizer.
    ordered_json& entry(size_t slot) { return json["quantizers"][slot]; }
};

/// Loads a checkpoint and looks at its weights. Throws Error(Fault::input) where it has no quantizers.
Inspected inspect_checkpoint(Options& options, const Checkpoint& checkpoint, const Compute& compute,
                             int64_t classes, std::vector<std::string>& notes);

/// The fields of an entry that tell of elements, from "min" to "sample"; null where there is no
/// inspection.
void add_elements(ordered_json& entry, const quant::Inspection* inspection);

/// What the page needs to change the step of the sample: its own gradient scale, "sample_grad_scale", and
/// where the quantizer has several steps, "sample_group": which of them each value has. The sample is of
/// `total` values, of one tensor of the shape of x or of several.
void add_sample_scale(ordered_json& entry, const nn::Quantizer& quantizer, const engine::Shape& x,
                      int64_t total);

/// Pictures of an evaluation set, spread evenly over it, as the model takes them.
class Pictures {
  public:
    /// At most `count` of them. The data set must outlive this object.
    Pictures(const data::Dataset& dataset, int64_t count, data::LoaderOptions loader,
             const Inspected& inspected);

    struct Part {
        nn::Tensor pictures, labels;
    };
    const std::vector<Part>& parts() const { return parts_; }
    int64_t size() const { return size_; }
    const std::string& name() const { return name_; }
    /// The first one: its label, and its pixels (3, S, S).
    int first_label() const { return first_label_; }
    const data::Bytes& first_pixels() const { return first_pixels_; }

  private:
    std::vector<Part> parts_;
    int64_t size_ = 0;
    std::string name_;
    int first_label_ = 0;
    data::Bytes first_pixels_;
};

/// Loss and accuracy on the pictures, in "data"; activations of the first batch, attention and tokens of the
/// first picture.
void add_pictures(Inspected& inspected, const Pictures& pictures);

/// "sensitivity" of every quantizer. False where a signal arrived before the end.
bool add_sensitivity(Inspected& inspected, const Pictures& pictures);

/// "severity" and "reason" of every quantizer.
void add_severity(ordered_json& inspection);

/// "training", of metrics.jsonl files. Throws Error(Fault::input) naming a line that is none of such a file.
ordered_json training_runs(const std::vector<std::string>& paths);

/// The summary, the worst quantizers and the table of quantizers or of their kinds.
std::string inspection_text(const ordered_json& inspection, const InspectFlags& flags);

/// A file for --bits within a budget, and a line that says what it costs.
struct SuggestedBits {
    std::string file, line;
};
/// Throws Error(Fault::input) where the budget is no number or less than what 2 bits cost.
SuggestedBits suggest_bits(const Inspected& inspected, const InspectFlags& flags);

}  // namespace vvtq::apps
