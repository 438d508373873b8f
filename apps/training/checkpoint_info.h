// checkpoint_info: what a checkpoint says besides its tensors, as metadata of its file.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "nn/model.h"

namespace vvtq::apps {

/// What the log's means and the guards (guards.h) know of earlier steps.
struct RunningMeans {
    // sums over the pictures of the pass under way
    double pictures = 0, loss = 0, regularizer = 0, top1 = 0, top5 = 0;
    double usual_loss = 0;  // a mean of the latest steps, whatever pass they belong to
    double usual_steps = 0;
};

/// Nothing here differs between two equal runs: no paths, times or thread counts.
struct CheckpointInfo {
    std::string command;  // "train" or "pretrain"
    nn::ModelConfig model;
    bool quantized = false;                     // whether the model has quantizers
    std::map<std::string, std::string> recipe;  // name and value of what decides the training
    int epoch = 0;                              // the next one
    int64_t batch = 0;                          // batches of it that are done
    int crops = 0;                              // of each picture in its pass; 0 before a pass has begun
    RunningMeans means;
    int64_t step = 0;                      // optimizer steps since the start
    double best_acc1 = -1;                 // per cent; -1 before the first evaluation
    uint64_t dataset = 0;                  // fingerprint of the training data
    std::vector<std::string> class_names;  // of it; empty in files of versions that did not keep them
    uint64_t labels = 0;                   // fingerprint of the soft labels; 0 without
    std::string evaluation_crop;  // "whole", or the share of the shorter side; empty where it was not kept
    bool checked = true;          // written with checksums
};

/// Whether a file's metadata was written by to_metadata.
bool is_checkpoint(const std::map<std::string, std::string>& metadata);

std::map<std::string, std::string> to_metadata(const CheckpointInfo& info);

/// The inverse. Throws Error(Fault::input) naming `path` where something is missing, malformed, or of a newer
/// version.
CheckpointInfo from_metadata(const std::map<std::string, std::string>& metadata, const std::string& path);

}  // namespace vvtq::apps
