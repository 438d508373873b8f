// quantizer_report: what the quantizers of a model look like at the end of an epoch, for log, metrics.jsonl
// and TensorBoard.
#pragma once

#include <cstdint>

#include "apps/training/log.h"
#include "nn/model.h"
#include "quant/oscillation.h"

namespace vvtq::apps {

/// With `oscillation` a line in the log, and an object of the kind "oscillation" in metrics.jsonl: of the
/// model and of each layer the share of weights that oscillate, the mean frequency and the share of frozen
/// weights; of each layer also steps, the variance within bins and the occupancy of codes; of activations the
/// steps. TensorBoard, where it is written, gets the same, and the device's memory, also without
/// `oscillation`. Waits for the device.
void report_quantizers(nn::Model& model, const quant::OscillationTracker* oscillation, int epoch,
                       int64_t step, RunLog& log);

}  // namespace vvtq::apps
