// torch_checkpoint: a checkpoint as the published program's torch.save lays it out.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "data/bytes.h"

namespace vvtq::apps {

/// A named tensor with its elements as they are stored.
struct StoredTensor {
    std::string name;
    std::string dtype;  // as in data/elements.h
    std::vector<int64_t> shape;
    data::Bytes bytes;
};

/// What stands beside the tensors.
struct TorchExtras {
    int64_t epoch = 0, step = 0;
    std::string arch;
    double best_acc1 = 0, lr = 0, weight_decay = 0;
    std::map<std::string, std::string> metadata;  // the dict "vvtq"; left out where it is empty
};

/// {"epoch", "arch", "state_dict", "best_acc1", "optimizer", "vvtq"}, in a zip container that torch.load
/// takes with weights_only. Tensors called "optimizer.<parameter>.exp_avg" and ".exp_avg_sq" become the state
/// of torch's AdamW in two groups, as timm makes them: biases and vectors without decay, then the others,
/// each in the order of `tensors`, with the parameters' names as "param_names". Without such tensors there is
/// no "optimizer". Errors: input_error where the file would be larger than 4 GiB.
data::Bytes torch_checkpoint(const std::vector<StoredTensor>& tensors, const TorchExtras& extras);

}  // namespace vvtq::apps
