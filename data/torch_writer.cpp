// Files of torch.save, zip container, as torch.load reads them with weights_only too.
#include "data/elements.h"
#include "data/torch_file.h"
#include "data/zip_file.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

class PickleWriter {
  public:
    PickleWriter() { out_ = {0x80, 2}; }

    void op(char code) { out_.push_back(static_cast<uint8_t>(code)); }
    void global(const std::string& module, const std::string& name) {
        op('c');
        raw(module + "\n" + name + "\n");
    }
    void text(const std::string& text) {
        op('X');
        number(text.size(), 4);
        raw(text);
    }
    void integer(int64_t value) {
        constexpr char kLong1 = static_cast<char>(0x8A);
        op(kLong1);
        op(8);
        number(static_cast<uint64_t>(value), 8);
    }
    void tuple(const std::vector<int64_t>& values) {
        op('(');
        for (const int64_t value : values) integer(value);
        op('t');
    }
    Bytes take() { return std::move(out_); }

  private:
    void raw(const std::string& text) { out_.insert(out_.end(), text.begin(), text.end()); }
    void number(uint64_t value, int size) {
        for (int i = 0; i < size; ++i) out_.push_back(static_cast<uint8_t>(value >> (8 * i)));
    }

    Bytes out_;
};

const char* storage_class(const std::string& dtype) {
    if (dtype == "F32") return "FloatStorage";
    if (dtype == "F16") return "HalfStorage";
    if (dtype == "I64") return "LongStorage";
    if (dtype == "BOOL") return "BoolStorage";
    engine::internal_error("no storage for ", dtype);
}

// _rebuild_tensor_v2(storage, offset 0, shape, strides, requires_grad False, hooks OrderedDict())
void write_tensor(PickleWriter& out, const TorchTensor& tensor, const std::string& key) {
    int64_t count = 1;
    std::vector<int64_t> strides(tensor.shape.size());
    for (size_t d = tensor.shape.size(); d-- > 0;) {
        strides[d] = count;
        count *= tensor.shape[d];
    }
    VVTQ_CHECK(tensor.data.size() == static_cast<size_t>(count) * element_size(tensor.dtype),
               tensor.data.size(), " bytes for ", count, " elements");
    constexpr char kFalse = static_cast<char>(0x89);
    out.global("torch._utils", "_rebuild_tensor_v2");
    out.op('(');
    out.op('(');
    out.text("storage");
    out.global("torch", storage_class(tensor.dtype));
    out.text(key);
    out.text("cpu");
    out.integer(count);
    out.op('t');
    out.op('Q');
    out.integer(0);
    out.tuple(tensor.shape);
    out.tuple(strides);
    out.op(kFalse);
    out.global("collections", "OrderedDict");
    out.op(')');
    out.op('R');
    out.op('t');
    out.op('R');
}

Bytes bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

}  // namespace

Bytes write_torch_list(const std::vector<TorchTensor>& tensors, const std::string& name) {
    PickleWriter out;
    std::vector<std::pair<std::string, Bytes>> files;
    out.op(']');
    out.op('(');
    for (size_t i = 0; i < tensors.size(); ++i) {
        const std::string key = std::to_string(i);
        write_tensor(out, tensors[i], key);
        files.emplace_back(name + "/data/" + key, Bytes(tensors[i].data.begin(), tensors[i].data.end()));
    }
    out.op('e');
    out.op('.');
    files.insert(files.begin(),
                 {{name + "/data.pkl", out.take()}, {name + "/byteorder", bytes_of("little")}});
    files.emplace_back(name + "/version", bytes_of("3\n"));
    return write_zip(files);
}

}  // namespace vvtq::data
