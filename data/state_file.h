// state_file: the named tensors of a checkpoint, of whatever program: safetensors, or a file of torch.save in
// its zip or its older container.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/safetensors.h"

namespace vvtq::data {

class StateFile {
  public:
    struct Entry {
        std::string dtype;  ///< as in data/elements.h
        std::vector<int64_t> shape;
    };

    /// In a file of torch.save the tensors are those of the dict itself, or of the first of "model",
    /// "state_dict", "module" and "state_dict_ema" in it; a name's "module." in front is dropped.
    /// Errors: input_error naming the file where it is missing, damaged, of another format, or without a
    /// tensor.
    explicit StateFile(const std::string& path);
    StateFile(const StateFile&) = delete;
    StateFile& operator=(const StateFile&) = delete;
    ~StateFile();

    /// Of a safetensors file; else empty.
    const std::map<std::string, std::string>& metadata() const { return metadata_; }
    const std::map<std::string, Entry>& entries() const { return entries_; }
    bool contains(const std::string& name) const { return entries_.count(name) != 0; }
    /// The entry, or input_error naming file and tensor.
    const Entry& entry(const std::string& name) const;
    /// The elements in row-major order, converted as data/elements.h says.
    template <typename To>
    std::vector<To> read(const std::string& name) const;

  private:
    struct Torch;

    std::string path_;
    std::unique_ptr<SafeTensors> safetensors_;  // one of the two
    std::unique_ptr<Torch> torch_;
    std::map<std::string, std::string> metadata_;
    std::map<std::string, Entry> entries_;
};

}  // namespace vvtq::data
