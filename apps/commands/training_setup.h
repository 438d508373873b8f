// training_setup: from flags to what apps/training takes: data sets, labels, and how a run goes.
#pragma once

#include "apps/options/options.h"
#include "apps/training/processes.h"
#include "apps/training/training_data.h"
#include "apps/training/training_options.h"

namespace vvtq::apps {

/// Opens --dataset, --data and --softlabel_path. With --evaluate the labels are not read, and the training
/// pictures only where --finetune's quantizers start from them. Throws Error(Fault::input) naming what is
/// missing or does not fit.
TrainingData open_training_data(const Options& options);

/// What the flags say of a run of `processes` on `data` with pictures of image_size. Training batches are cut
/// by the label file where there is one, else augmented.
TrainingOptions training_options(const Options& options, const TrainingData& data, int64_t image_size,
                                 const Processes& processes = {});

/// How evaluation cuts a picture: "whole", or the share of the shorter side that is kept.
std::string evaluation_crop(const Options& options);
/// The shorter side before the central crop, as LoaderOptions has it. Throws Error(Fault::internal) where the
/// text is no such crop.
int shorter_side(const std::string& crop, int64_t image_size);

/// --on-bad-image.
void set_bad_image(const Options& options, data::LoaderOptions& loader);

}  // namespace vvtq::apps
