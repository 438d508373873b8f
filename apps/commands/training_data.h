// training_data: the data sets and labels that the flags name, and how batches are made of them.
#pragma once

#include <cstdint>
#include <memory>

#include "apps/commands/model_setup.h"
#include "apps/options/options.h"
#include "data/loader.h"
#include "nn/module.h"

namespace vvtq::apps {

/// What a training command reads.
struct TrainingData {
    std::unique_ptr<data::Dataset> train;  // null where a checkpoint is only measured
    std::unique_ptr<data::Dataset> evaluation;
    std::unique_ptr<data::SoftLabels> labels;  // null without --softlabel_path

    /// A number that changes with what the labels hold; 0 without any. Of a large set the ends count.
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

/// Whether training batches carry class distributions: from labels, or from mixup and cutmix.
bool has_soft_targets(const Options& options, const TrainingData& data);

/// --on-bad-image.
void set_bad_image(const Options& options, data::LoaderOptions& loader);

/// The evaluation pictures, in order.
data::LoaderOptions evaluation_loader(const Options& options, int64_t image_size);

/// The training pictures that activation steps start from: the first batch of single crops, up to 64;
/// normalized.
nn::Tensor calibration_pictures(const Options& options, const TrainingData& data, int64_t image_size,
                                const Compute& compute);

}  // namespace vvtq::apps
