// state_file: the named tensors of a checkpoint, of whatever program: safetensors, or a file of torch.save in
// its zip or its older container.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/safetensors.h"
#include "data/torch_file.h"

namespace vvtq::data {

/// In front of the names of an optimizer's tensors: "optimizer.<parameter>.exp_avg".
inline constexpr std::string_view kOptimizerPrefix = "optimizer.";

class StateFile {
  public:
    struct Entry {
        std::string dtype;  ///< as in data/elements.h
        std::vector<int64_t> shape;
        std::string stored;                                 ///< the name in the file
        std::function<std::vector<float>()> computed = {};  ///< where set: makes the elements, of F32
        int bits = 0;                                       ///< of `codes`
        std::function<std::vector<int8_t>()> codes = {};    ///< where set: `computed` is these times steps
    };

    /// In a file of torch.save the tensors are those of the dict itself, or of the first of "model",
    /// "state_dict", "module" and "state_dict_ema" in it. Beside them stand those of "optimizer", where its
    /// groups have the names of their parameters. A name's "module." in front is dropped, in every format,
    /// unless the file has the shorter name too.
    /// Errors: input_error naming the file where it is missing, damaged, of another format, or without a
    /// tensor.
    explicit StateFile(const std::string& path);
    StateFile(const StateFile&) = delete;
    StateFile& operator=(const StateFile&) = delete;
    ~StateFile();

    /// Of a safetensors file, or the texts of the dict "vvtq" in a file of torch.save; else empty.
    const std::map<std::string, std::string>& metadata() const { return metadata_; }
    /// Whether every changed byte of the values would have been noticed.
    bool has_checksums() const;
    const std::map<std::string, Entry>& entries() const { return entries_; }
    bool contains(const std::string& name) const { return entries_.count(name) != 0; }
    /// Other tensors and texts instead of the file's own, from which they are computed.
    void replace(std::map<std::string, Entry> entries, std::map<std::string, std::string> metadata);
    /// The entry, or input_error naming file and tensor.
    const Entry& entry(const std::string& name) const;
    /// The elements in row-major order, converted as data/elements.h says.
    template <typename To>
    std::vector<To> read(const std::string& name) const;
    /// The elements in row-major order as they are stored, computed ones as F32.
    Bytes bytes(const std::string& name) const;
    /// The file itself, where it is a safetensors file; else null.
    const SafeTensors* safetensors() const { return safetensors_.get(); }

  private:
    struct Torch;

    void add(const std::string& stored, const std::string& dtype, const std::vector<int64_t>& shape);

    std::string path_;
    std::unique_ptr<SafeTensors> safetensors_;  // one of the two
    std::unique_ptr<Torch> torch_;
    std::map<std::string, std::string> metadata_;
    std::map<std::string, Entry> entries_;
};

/// Whether a path's ending asks for a file of torch.save: .pth, .pt, .pth.tar.
bool is_torch_path(const std::string& path);

}  // namespace vvtq::data
