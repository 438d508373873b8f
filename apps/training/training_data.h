// training_data: the data sets and labels of a run.
#pragma once

#include <cstdint>
#include <memory>

#include "apps/training/compute.h"
#include "data/loader.h"
#include "nn/module.h"

namespace vvtq::apps {

/// What a run reads.
struct TrainingData {
    std::unique_ptr<data::Dataset> train;  // null where a checkpoint is only measured
    std::unique_ptr<data::Dataset> evaluation;
    std::unique_ptr<data::SoftLabels> labels;  // null without soft labels

    /// A number that changes with what the labels hold; 0 without any. Of a large set the ends count.
    uint64_t labels_fingerprint() const;
};

/// The training pictures that activation steps start from: the first batch of single crops, up to 64;
/// normalized. `training` are the options of the training batches.
nn::Tensor calibration_pictures(const TrainingData& data, const data::LoaderOptions& training,
                                const Compute& compute);

}  // namespace vvtq::apps
