// checkpoint: a model, its optimizer and the place in its run, in one .safetensors file.
//
// Tensors: parameters under their published names; "optimizer.<parameter>.exp_avg" and ".exp_avg_sq"; where
// oscillation is tracked, those of quant::OscillationTracker::state behind "optimizer." too. The metadata
// holds CheckpointInfo, checksums, and nothing that differs between two equal runs: no paths, times or thread
// counts.
#pragma once

#include <optional>
#include <string>

#include "apps/training/checkpoint_info.h"
#include "apps/training/state_load.h"
#include "nn/optimizer.h"
#include "quant/oscillation.h"

namespace vvtq::apps {

/// Writes under a temporary name, flushes, renames; on failure the previous file stays. `oscillation` may be
/// null.
void save_checkpoint(const std::string& path, const CheckpointInfo& info, const nn::Model& model,
                     const nn::Adamw& optimizer, const quant::OscillationTracker* oscillation = nullptr);

/// A checkpoint of this program, or a file of another (data/state_file.h) with published or timm's names.
class Checkpoint {
  public:
    /// `flag` is named in messages. Throws Error(Fault::input) where the file is missing or damaged (one of
    /// its checksums does not fit), or its metadata contradicts its tensors or tells of a model that cannot
    /// be built.
    Checkpoint(const std::string& path, const std::string& flag);
    Checkpoint(const Checkpoint&) = delete;
    Checkpoint& operator=(const Checkpoint&) = delete;

    const std::string& path() const { return path_; }
    const data::StateFile& file() const { return file_; }
    /// Absent in files of other programs.
    const std::optional<CheckpointInfo>& info() const { return info_; }
    /// The model's sizes, absent in files of other programs.
    std::optional<nn::ModelConfig> model_config() const;
    /// Whether the file holds quantizers of `model`, which may be without them.
    bool quantized(nn::Model& model) const;
    /// The tensors that a model of these sizes has otherwise, as LoadReport::misfits tells them; empty where
    /// all fit. Quantizers are left out, and no memory is taken for the model. Throws Error(Fault::input)
    /// where no model can have these sizes.
    std::string misfits(const nn::ModelConfig& config) const;

    /// Copies the tensors into the model, converted to its precision; what the rules allow to start anew
    /// keeps its value. Throws Error(Fault::input) listing names that are missing, left over or of another
    /// shape, before anything is changed.
    LoadReport load_parameters(nn::Model& model, const LoadRules& rules = {}) const;
    /// Restores the moments. Throws Error(Fault::input) naming one that is missing or of another shape.
    void load_optimizer(nn::Adamw& optimizer) const;
    /// Likewise the state of the weights' oscillation.
    void load_oscillation(quant::OscillationTracker& oscillation) const;

  private:
    /// The entry of an optimizer's tensor; throws Error(Fault::input) where it is missing or of another
    /// shape.
    std::string stored_state(const std::string& name, const engine::Shape& shape) const;

    std::string path_;
    std::string flag_;
    data::StateFile file_;
    std::optional<CheckpointInfo> info_;
};

}  // namespace vvtq::apps
