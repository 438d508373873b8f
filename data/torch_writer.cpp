// Files of torch.save, zip container, as torch.load reads them with weights_only too.
#include <bit>

#include "data/elements.h"
#include "data/torch_file.h"
#include "data/zip_file.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

class PickleWriter {
  public:
    PickleWriter() { out_ = {0x80, 2}; }

    void value(const TorchValue& value) { std::visit(*this, value.value); }
    void operator()(bool truth) { op(truth ? '\x88' : '\x89'); }
    void operator()(int64_t number) {
        op('\x8A');
        op(8);
        put(static_cast<uint64_t>(number), 8);
    }
    void operator()(double number) {
        op('G');
        put(__builtin_bswap64(std::bit_cast<uint64_t>(number)), 8);
    }
    void operator()(const std::string& text) {
        op('X');
        put(text.size(), 4);
        raw(text);
    }
    void operator()(const TorchValue::List& items) {
        op(']');
        op('(');
        for (const TorchValue& item : items) value(item);
        op('e');
    }
    void operator()(const TorchValue::Dict& items) {
        op('}');
        op('(');
        for (const auto& [key, item] : items) {
            value(key);
            value(item);
        }
        op('u');
    }
    // _rebuild_tensor_v2(storage, offset 0, shape, strides, requires_grad False, hooks OrderedDict()), or
    // _rebuild_tensor_v3 of an untyped storage with the element type behind it
    void operator()(const TorchTensor& tensor) {
        int64_t count = 1;
        std::vector<int64_t> strides(tensor.shape.size());
        for (size_t d = tensor.shape.size(); d-- > 0;) {
            strides[d] = count;
            count *= tensor.shape[d];
        }
        VVTQ_CHECK(tensor.data.size() == static_cast<size_t>(count) * element_size(tensor.dtype),
                   tensor.data.size(), " bytes for ", count, " elements");
        const TorchType type = torch_type(tensor.dtype);
        const bool typed = !type.storage.empty();
        global("torch._utils", typed ? "_rebuild_tensor_v2" : "_rebuild_tensor_v3");
        op('(');
        op('(');
        (*this)(std::string("storage"));
        if (typed) {
            global("torch", type.storage);
        } else {
            global("torch.storage", "UntypedStorage");
        }
        (*this)(std::to_string(tensors_.size()));
        (*this)(std::string("cpu"));
        (*this)(typed ? count : static_cast<int64_t>(tensor.data.size()));
        op('t');
        op('Q');
        (*this)(int64_t{0});
        tuple(tensor.shape);
        tuple(strides);
        (*this)(false);
        global("collections", "OrderedDict");
        op(')');
        op('R');
        if (!typed) global("torch", type.name);
        op('t');
        op('R');
        tensors_.push_back(tensor.data);
    }

    /// Ends the stream.
    Bytes take() {
        op('.');
        return std::move(out_);
    }
    /// The storages, by the number that stands in the stream.
    const std::vector<std::span<const uint8_t>>& tensors() const { return tensors_; }

  private:
    void op(char code) { out_.push_back(static_cast<uint8_t>(code)); }
    void raw(const std::string& text) { out_.insert(out_.end(), text.begin(), text.end()); }
    void put(uint64_t value, int size) {
        for (int i = 0; i < size; ++i) out_.push_back(static_cast<uint8_t>(value >> (8 * i)));
    }
    void global(const std::string& module, const std::string& name) {
        op('c');
        raw(module + "\n" + name + "\n");
    }
    void tuple(const std::vector<int64_t>& values) {
        op('(');
        for (const int64_t value : values) (*this)(value);
        op('t');
    }

    Bytes out_;
    std::vector<std::span<const uint8_t>> tensors_;
};

std::span<const uint8_t> bytes_of(std::string_view text) {
    return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

}  // namespace

Bytes write_torch(const TorchValue& value, const std::string& name) {
    PickleWriter out;
    out.value(value);
    const Bytes pickle = out.take();
    std::vector<ZipEntry> files = {{name + "/data.pkl", pickle}, {name + "/byteorder", bytes_of("little")}};
    for (size_t i = 0; i < out.tensors().size(); ++i) {
        files.push_back({name + "/data/" + std::to_string(i), out.tensors()[i]});
    }
    files.push_back({name + "/version", bytes_of("3\n")});
    return write_zip(files);
}

}  // namespace vvtq::data
