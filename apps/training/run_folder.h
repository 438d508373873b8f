// run_folder: the files of a run.
#pragma once

#include <string>
#include <vector>

#include "apps/training/checkpoint.h"

namespace vvtq::apps {

inline constexpr const char* kCheckpoint = "checkpoint.safetensors";
inline constexpr const char* kBestCheckpoint = "model_best.safetensors";

std::string path_in(const std::string& dir, const std::string& file);

/// Throws Error(Fault::input) naming `save_checkpoint_path` where the folder cannot be made.
void make_folder(const std::string& dir);

/// The best model so far, where the run goes on in another folder `dir` than it was in; else empty. Where it
/// does not lie beside the resumed checkpoint, `notes` says so. Throws Error(Fault::input) where it is
/// damaged.
std::string best_to_bring_along(const Checkpoint& resumed, const std::string& dir,
                                std::vector<std::string>& notes);

/// Replaces `to` by a copy of `from`, complete or not at all.
void copy_file(const std::string& from, const std::string& to);

}  // namespace vvtq::apps
