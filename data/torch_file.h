// torch_file: files of torch.save, zip and legacy containers, with tensors and numpy arrays in them. The
// pickles are described (pickle.h), never executed: what is not a tensor, an array or a plain container is an
// opaque node, and an error where its content is asked for.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "data/bytes.h"
#include "data/pickle.h"

namespace vvtq::data {

/// A tensor's or array's place in its file; elements may lie with strides.
struct TorchArray {
    std::string dtype;  ///< as in data/elements.h
    std::vector<int64_t> shape;
    std::vector<int64_t> strides;      ///< in elements
    std::span<const uint8_t> bytes;    ///< from the first element on; checked to hold all of them
    std::shared_ptr<const Bytes> own;  ///< the bytes where they had to be decoded
    int64_t count() const;
    /// All elements in row-major order.
    template <typename To>
    std::vector<To> read() const;
    /// The same as they are stored.
    Bytes contiguous() const;

  private:
    /// f(bytes of the element) of all elements in row-major order.
    template <typename F>
    void for_each(F&& f) const;
};

/// Whether a file begins as torch.save's do: a zip archive, or a legacy pickle.
bool is_torch_file(std::span<const uint8_t> bytes);

/// What a file of torch.save may ask for.
struct TorchLimits {
    Pickle::Ref values = Pickle::kMostNodes;  ///< in a pickle
    uint64_t inside = 64;                     ///< bytes in a zip archive for each of its own
};

/// Opened by parse(); the bytes must outlive it.
class TorchFile {
  public:
    /// `path` appears in messages. Errors: input_error where the file is truncated, damaged, neither a zip
    /// nor a legacy file of torch.save, or beyond the limits.
    TorchFile(std::span<const uint8_t> bytes, std::string path, const TorchLimits& limits = {});

    /// Whether it is a zip archive, whose contents have checksums.
    bool is_zip() const { return !files_.empty(); }
    const Pickle& pickle() const { return *pickle_; }
    const Pickle::Node& root() const { return pickle_->root(); }

    /// Bytes of all storages, and of the arrays in the pickle.
    uint64_t content() const;
    bool is_array(const Pickle::Node& node) const;
    /// A tensor of a kind that `array` refuses, such as a sparse or a quantized one.
    bool is_unread_tensor(const Pickle::Node& node) const;
    /// A tensor, parameter or numpy array. `what` names it in messages. Errors: input_error where `node` is
    /// something else, of an unknown element type, or reaches beyond its storage.
    TorchArray array(const Pickle::Node& node, const std::string& what) const;

  private:
    [[noreturn]] void refuse(const std::string& reason) const;
    void parse_zip(std::span<const uint8_t> bytes, const TorchLimits& limits);
    void parse_legacy(std::span<const uint8_t> bytes, const TorchLimits& limits);
    std::shared_ptr<const Bytes> decoded(const Pickle::Node& text, const std::string& what) const;
    /// Its bytes, and its element type where it has one: else `dtype` stays as it is.
    std::span<const uint8_t> storage(const Pickle::Node& id, std::string& dtype,
                                     const std::string& what) const;
    bool is_tensor(const Pickle::Node& node) const;
    bool is_parameter(const Pickle::Node& node) const;
    TorchArray tensor(const Pickle::Node& call, const std::string& what) const;
    TorchArray numpy(const Pickle::Node& call, const std::string& what) const;
    void check_reach(TorchArray& array, int64_t offset, const std::string& what) const;
    std::vector<int64_t> integers(const Pickle::Node& node, const std::string& what) const;

    std::string path_;
    std::unique_ptr<Pickle> pickle_;
    std::map<std::string, Bytes> files_;  // of a zip archive
    std::map<std::string, std::span<const uint8_t>> storages_;
    mutable std::map<const Pickle::Node*, std::shared_ptr<const Bytes>> decoded_;
};

/// torch's names of an element type.
struct TorchType {
    std::string dtype;    ///< as in data/elements.h
    std::string storage;  ///< the class of its storages; empty: they are untyped
    std::string name;     ///< "float32", below the module torch
};
/// Errors: internal_error where torch has no such type.
const TorchType& torch_type(const std::string& dtype);

/// A tensor to be written: contiguous, row-major elements.
struct TorchTensor {
    std::string dtype;  ///< as in data/elements.h
    std::vector<int64_t> shape;
    std::span<const uint8_t> data;
};

/// A value to be written, as torch.load with weights_only returns it.
struct TorchValue {
    struct Item;
    using List = std::vector<TorchValue>;
    using Dict = std::vector<Item>;  ///< in this order

    std::variant<bool, int64_t, double, std::string, TorchTensor, List, Dict> value;
};
struct TorchValue::Item {
    TorchValue key, value;
};

/// The bytes of a file in which torch.load finds `value`. `name` is the archive's folder. Errors: input_error
/// where the file would be larger than 4 GiB.
Bytes write_torch(const TorchValue& value, const std::string& name);

}  // namespace vvtq::data
