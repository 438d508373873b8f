// run_folder: the files of a run, in a folder that one run has at a time.
//
// checkpoint.safetensors is the latest state. With `keep` > 1 the latest states are also kept under numbers,
// checkpoint-0000120.safetensors after step 120; where the file system can, one of these and
// checkpoint.safetensors are one file with two names. model_best.safetensors is the state after the best
// evaluation.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/training/checkpoint.h"
#include "data/file_lock.h"

namespace vvtq::apps {

inline constexpr const char* kCheckpoint = "checkpoint.safetensors";
inline constexpr const char* kBestCheckpoint = "model_best.safetensors";

std::string path_in(const std::string& dir, const std::string& file);

class RunFolder {
  public:
    /// Touches nothing. `keep`: how many numbered checkpoints stay; 0 and 1: none.
    RunFolder(const std::string& dir, int keep) : dir_(dir), keep_(keep) {}

    const std::string& dir() const { return dir_; }
    bool exists() const;
    /// Makes the folder where it is missing, keeps other runs out of it, and removes what runs that died left
    /// half written. Returns whether the folder that this run had taken before had gone with all in it. Throws
    /// Error(Fault::input) where it cannot be done, or another run is in it.
    bool take();
    /// `take`, then tries whether both files can be written with `bytes` each, and throws Error(Fault::input)
    /// where they cannot.
    void try_out(size_t bytes);

    /// Replaces `file`, one of the two names above; arguments as save_checkpoint has them. The first save of
    /// a run that starts afresh removes the checkpoints of an earlier run. Returns whether the folder had
    /// been deleted and was made again. Throws Error where the file cannot be written; the earlier file
    /// stays.
    bool save(const std::string& file, const CheckpointInfo& info, const nn::Model& model,
              const nn::Adamw& optimizer, const quant::OscillationTracker* oscillation, bool afresh);
    /// Writes a copy of the file `from` as model_best.safetensors.
    void bring_best(const std::string& from);

  private:
    void number(int64_t step);
    void remove_numbered(int64_t last, int kept);

    std::string dir_;
    int keep_;
    std::unique_ptr<data::FileLock> lock_;
};

/// Opens the newest whole checkpoint of the folder: checkpoint.safetensors, else the later one of
/// the latest numbered one and model_best.safetensors; nothing where there are none. `notes` says which are
/// damaged. `flag` as in Checkpoint. Throws Error(Fault::input) where all are damaged.
void open_newest(const std::string& dir, const std::string& flag, std::optional<Checkpoint>& newest,
                 std::vector<std::string>& notes);

/// The best model so far, where the run goes on in another folder `dir` than it was in; else empty. Where it
/// does not lie beside the resumed checkpoint, `notes` says so. Throws Error(Fault::input) where it is
/// damaged.
std::string best_to_bring_along(const Checkpoint& resumed, const std::string& dir,
                                std::vector<std::string>& notes);

}  // namespace vvtq::apps
