// state_names: where files of other programs (timm, DeiT) keep the tensors of our models, whose names are
// those of the published state files.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace vvtq::nn {

/// One of `parts` equal parts of a stored tensor's rows.
struct StatePlace {
    std::string name;
    int64_t part = 0;
    int64_t parts = 1;
};

/// The names in a file.
class StateNames {
  public:
    /// `has` says whether the file has a tensor of this name. It is called later too.
    explicit StateNames(std::function<bool(const std::string&)> has);

    /// Where the file has what our models call `name`: under the same name; queries, keys and values as
    /// thirds of `attn.qkv`; as timm's Swin calls the classifier (`head.fc`) and the merging of a stage (by
    /// the next stage). Nothing where the file does not have it.
    std::optional<StatePlace> place(const std::string& name) const;
    /// Whether a tensor of the file is a constant that our models compute: Swin's masks and indices.
    static bool is_constant(const std::string& name);

  private:
    std::function<bool(const std::string&)> has_;
    bool timm_swin_;
};

}  // namespace vvtq::nn
