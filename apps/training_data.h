// training_data: the data sets and labels that the flags name, and how batches are made of them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "apps/model_setup.h"
#include "apps/options.h"
#include "data/loader.h"
#include "nn/module.h"

namespace vvtq::apps {

/// What a training command reads.
struct TrainingData {
    std::unique_ptr<data::Dataset> train;  // null where a checkpoint is only measured
    std::unique_ptr<data::Dataset> evaluation;
    std::optional<data::SoftLabels> labels;

    /// A number that changes with what the label file holds; 0 without one. Of a file above 64 MiB the size
    /// and the first and last MiB count.
    uint64_t labels_fingerprint() const;
};

/// Opens --dataset, --data and --softlabel_path. With --evaluate the labels are not read, and the training
/// pictures only where --finetune's quantizers start from them. Throws Error(Fault::input) naming what is
/// missing or does not fit.
TrainingData open_training_data(const Options& options);

/// Training batches with `crops` crops of each picture: from the label file where there is one, else
/// augmented. A batch holds --batch-size crops; its last picture may give fewer than `crops`.
data::LoaderOptions training_loader(const Options& options, const TrainingData& data, int64_t image_size,
                                    int crops);

/// The evaluation pictures, in order.
data::LoaderOptions evaluation_loader(const Options& options, int64_t image_size);

/// The training pictures that activation steps start from: the first batch of single crops, up to 64;
/// normalized.
nn::Tensor calibration_pictures(const Options& options, const TrainingData& data, int64_t image_size,
                                const Compute& compute);

}  // namespace vvtq::apps
