#include "data/torch_file.h"

#include <algorithm>
#include <cstring>

#include "data/elements.h"
#include "data/zip_file.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

using Kind = Pickle::Kind;
using Node = Pickle::Node;

constexpr int64_t kLegacyProtocol = 1001;
constexpr int64_t kMostDims = 16;

const TorchType kTypes[] = {{"F32", "FloatStorage", "float32"},
                            {"F64", "DoubleStorage", "float64"},
                            {"F16", "HalfStorage", "float16"},
                            {"BF16", "BFloat16Storage", "bfloat16"},
                            {"I64", "LongStorage", "int64"},
                            {"I32", "IntStorage", "int32"},
                            {"I16", "ShortStorage", "int16"},
                            {"I8", "CharStorage", "int8"},
                            {"U8", "ByteStorage", "uint8"},
                            {"BOOL", "BoolStorage", "bool"},
                            {"U16", "", "uint16"},
                            {"U32", "", "uint32"},
                            {"U64", "", "uint64"},
                            {"F8_E4M3", "", "float8_e4m3fn"},
                            {"F8_E5M2", "", "float8_e5m2"}};
constexpr const char* kUntyped = "torch.storage.UntypedStorage";

/// The type of a storage's class or of an element, such as "torch.FloatStorage" or "torch.uint16"; null where
/// it is unknown.
const TorchType* find_type(const std::string& global, std::string TorchType::*called) {
    for (const TorchType& type : kTypes) {
        if (!(type.*called).empty() && global == "torch." + type.*called) return &type;
    }
    return nullptr;
}

// numpy's type codes.
const std::map<std::string, std::string, std::less<>> kArrays = {
    {"f4", "F32"}, {"f8", "F64"}, {"f2", "F16"}, {"i8", "I64"}, {"i4", "I32"},
    {"i2", "I16"}, {"i1", "I8"},  {"u1", "U8"},  {"b1", "BOOL"}};

template <typename T>
T get(const uint8_t* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

bool is_legacy(std::span<const uint8_t> bytes) {
    return bytes.size() > 14 && bytes[0] == 0x80 && bytes[2] == 0x8A;
}

}  // namespace

int64_t TorchArray::count() const {
    if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;  // the others may be anything
    int64_t count = 1;
    for (const int64_t dim : shape) count *= dim;
    return count;
}

template <typename F>
void TorchArray::for_each(F&& f) const {
    std::vector<int64_t> at(shape.size());
    const auto size = static_cast<int64_t>(element_size(dtype));
    int64_t offset = 0;
    for (int64_t left = count(); left > 0; --left) {
        f(bytes.data() + offset * size);
        for (size_t d = shape.size(); d-- > 0;) {  // count up, last dimension first
            offset += strides[d];
            if (++at[d] < shape[d]) break;
            offset -= strides[d] * shape[d];
            at[d] = 0;
        }
    }
}

template <typename To>
std::vector<To> TorchArray::read() const {
    std::vector<To> values;
    values.reserve(static_cast<size_t>(count()));
    const Element& element = *find_element(dtype);
    for_each([&](const uint8_t* at) { values.push_back(read_element<To>(element, at)); });
    return values;
}

Bytes TorchArray::contiguous() const {
    const size_t size = element_size(dtype);
    Bytes out(static_cast<size_t>(count()) * size);
    uint8_t* to = out.data();
    for_each([&](const uint8_t* at) { to = std::copy_n(at, size, to); });
    return out;
}

template std::vector<float> TorchArray::read() const;
template std::vector<double> TorchArray::read() const;

void TorchFile::refuse(const std::string& reason) const {
    engine::input_error("'", printable(path_), "' ", reason);
}

TorchFile::TorchFile(std::span<const uint8_t> bytes, std::string path, const TorchLimits& limits)
    : path_(std::move(path)) {
    if (data::is_zip(bytes)) {
        parse_zip(bytes, limits);
    } else {
        parse_legacy(bytes, limits);
    }
}

const TorchType& torch_type(const std::string& dtype) {
    for (const TorchType& type : kTypes) {
        if (type.dtype == dtype) return type;
    }
    engine::internal_error("torch has no type ", dtype);
}

bool is_torch_file(std::span<const uint8_t> bytes) { return data::is_zip(bytes) || is_legacy(bytes); }

void TorchFile::parse_zip(std::span<const uint8_t> bytes, const TorchLimits& limits) {
    files_ = read_zip(bytes, path_, limits.inside);
    std::string root;
    for (const auto& [name, content] : files_) {
        const size_t slash = name.find('/');
        if (slash != std::string::npos && name.substr(slash) == "/data.pkl") root = name.substr(0, slash + 1);
    }
    if (root.empty()) refuse("is no file of torch.save: it has no data.pkl; name another file");
    const auto order = files_.find(root + "byteorder");
    if (order != files_.end() && order->second.size() == 3) {  // "big"
        refuse("was written on a big-endian machine, which is not supported: write it again");
    }
    const std::string data = root + "data/";
    for (const auto& [name, content] : files_) {
        if (name.starts_with(data)) storages_[name.substr(data.size())] = content;
    }
    pickle_ = std::make_unique<Pickle>(files_.at(root + "data.pkl"), path_, limits.values);
}

void TorchFile::parse_legacy(std::span<const uint8_t> bytes, const TorchLimits& limits) {
    // Pickles one after the other: magic number, protocol, system, value, keys of the storages; then each
    // storage after its number of elements.
    const auto magic = static_cast<int64_t>(0xA86A20F9469CFC6CULL);  // the lower 64 bits
    if (!is_legacy(bytes)) refuse("is no file of torch.save: name another file");
    const auto next = [&] {
        auto pickle = std::make_unique<Pickle>(bytes, path_, limits.values);
        bytes = bytes.subspan(pickle->size());
        return pickle;
    };
    const auto first = next();
    const auto protocol = next();
    if (first->root().integer != magic || protocol->root().integer != kLegacyProtocol) {
        refuse("is no file of torch.save: name another file");
    }
    const auto system = next();
    const Node* little = system->find(system->root(), "little_endian");
    if (little != nullptr && little->integer == 0) {
        refuse("was written on a big-endian machine, which is not supported: write it again");
    }
    pickle_ = next();
    const auto keys = next();
    // An element's size stands with the storage's first use in the value.
    std::map<std::string_view, size_t> sizes;
    for (Pickle::Ref i = 0; i < pickle_->count(); ++i) {
        const Node& node = pickle_->at(i);
        if (node.kind != Kind::persistent) continue;
        const Node& id = pickle_->at(node.items[0]);
        if (id.kind != Kind::tuple || id.items.size() < 5) continue;
        const std::string& called = pickle_->at(id.items[1]).name;
        const TorchType* type = find_type(called, &TorchType::storage);
        if (type == nullptr && called != kUntyped) continue;
        sizes[pickle_->at(id.items[2]).text] = type != nullptr ? element_size(type->dtype) : 1;
    }
    if (keys->root().kind != Kind::list) refuse("is damaged: it has no list of storages; fetch it again");
    for (const Pickle::Ref ref : keys->root().items) {
        const std::string_view key = keys->at(ref).text;
        const auto size = sizes.find(key);
        if (bytes.size() < sizeof(uint64_t)) refuse("is truncated: fetch it again");
        const auto count = get<uint64_t>(bytes.data());
        bytes = bytes.subspan(sizeof(uint64_t));
        if (size == sizes.end() || count > bytes.size() / size->second) {
            refuse(size == sizes.end() ? "has a storage of an unknown type: convert it to float32"
                                       : "is truncated: fetch it again");
        }
        storages_[std::string(key)] = bytes.first(count * size->second);
        bytes = bytes.subspan(count * size->second);
    }
}

std::vector<int64_t> TorchFile::integers(const Node& node, const std::string& what) const {
    std::vector<int64_t> values;
    if (node.kind != Kind::tuple || node.items.size() > kMostDims)
        refuse("has no shape for " + what + ": fetch it again");
    for (const Pickle::Ref ref : node.items) {
        const Node& item = pickle_->at(ref);
        if (item.kind != Kind::integer || item.integer < 0)
            refuse("has a bad shape for " + what + ": fetch it again");
        values.push_back(item.integer);
    }
    return values;
}

std::span<const uint8_t> TorchFile::storage(const Node& id, std::string& dtype,
                                            const std::string& what) const {
    const Node& tuple = id.kind == Kind::persistent ? pickle_->at(id.items[0]) : id;
    if (id.kind != Kind::persistent || tuple.kind != Kind::tuple || tuple.items.size() < 5) {
        refuse("has no storage for " + what + ": fetch it again");
    }
    const std::string& called = pickle_->at(tuple.items[1]).name;
    const TorchType* type = find_type(called, &TorchType::storage);
    if (type == nullptr && (called != kUntyped || dtype.empty())) {
        refuse("stores " + what + " as '" + printable(called) +
               "', which is not supported: convert it to float32");
    }
    const auto held = storages_.find(std::string(pickle_->at(tuple.items[2]).text));
    if (held == storages_.end()) refuse("lacks the storage of " + what + ": fetch it again");
    if (type != nullptr) dtype = type->dtype;
    return held->second;
}

// Cuts array.bytes, a whole storage, to begin at element `offset`, after checking that all elements lie
// inside.
void TorchFile::check_reach(TorchArray& array, int64_t offset, const std::string& what) const {
    const auto size = static_cast<int64_t>(element_size(array.dtype));
    const int64_t held = static_cast<int64_t>(array.bytes.size()) / size;
    int64_t last = offset;
    const bool empty = std::find(array.shape.begin(), array.shape.end(), 0) != array.shape.end();
    bool good = offset >= 0 && offset <= held && array.strides.size() == array.shape.size();
    for (size_t d = 0; good && !empty && d < array.shape.size(); ++d) {
        const int64_t steps = std::max<int64_t>(array.shape[d] - 1, 0);
        good = steps == 0 || array.strides[d] <= (held - last) / steps;
        if (good) last += steps * array.strides[d];
    }
    // Elements may share their place (expanded tensors), but not so that a small file asks for much memory.
    constexpr int64_t kExpanded = 1 << 16;
    int64_t count = 1;
    for (size_t d = 0; good && !empty && d < array.shape.size(); ++d) {
        good = array.shape[d] <= (int64_t{1} << 40) / count;
        count *= good ? array.shape[d] : 1;
    }
    good = good && (empty || last < held);
    if (good && !empty && count > std::max(held, kExpanded)) {
        refuse("repeats few numbers to fill the large shape of " + what +
               ": write it as a contiguous tensor");
    }
    if (!good) refuse("holds fewer numbers than the shape of " + what + " asks for: fetch it again");
    array.bytes = array.bytes.subspan(static_cast<size_t>(offset * size));
}

TorchArray TorchFile::tensor(const Node& call, const std::string& what) const {
    const Node& arguments = pickle_->at(call.items[1]);
    if (arguments.kind != Kind::tuple || arguments.items.size() < 4)
        refuse("has a damaged tensor for " + what + ": fetch it again");
    TorchArray array;
    constexpr size_t kType = 6;  // of _rebuild_tensor_v3, whose storages are untyped
    if (arguments.items.size() > kType) {
        const std::string& called = pickle_->at(arguments.items[kType]).name;
        const TorchType* type = find_type(called, &TorchType::name);
        if (type != nullptr) array.dtype = type->dtype;
    }
    array.bytes = storage(pickle_->at(arguments.items[0]), array.dtype, what);
    const Node& offset = pickle_->at(arguments.items[1]);
    if (offset.kind != Kind::integer) refuse("has a damaged tensor for " + what + ": fetch it again");
    array.shape = integers(pickle_->at(arguments.items[2]), what);
    array.strides = integers(pickle_->at(arguments.items[3]), what);
    check_reach(array, offset.integer, what);
    return array;
}

// Bytes 0..255 written as the letters of these numbers, in UTF-8; once for all arrays made of them.
std::shared_ptr<const Bytes> TorchFile::decoded(const Node& node, const std::string& what) const {
    std::shared_ptr<const Bytes>& kept = decoded_[&node];
    if (kept != nullptr) return kept;
    Bytes bytes;
    for (size_t i = 0; i < node.text.size(); ++i) {
        const auto byte = static_cast<uint8_t>(node.text[i]);
        if (byte < 0x80) {
            bytes.push_back(byte);
            continue;
        }
        const bool pair = (byte == 0xC2 || byte == 0xC3) && i + 1 < node.text.size();
        if (!pair) refuse("has a damaged numpy array for " + what + ": write it again");
        bytes.push_back(static_cast<uint8_t>(byte << 6 | (static_cast<uint8_t>(node.text[++i]) & 0x3F)));
    }
    kept = std::make_shared<const Bytes>(std::move(bytes));
    return kept;
}

uint64_t TorchFile::content() const {
    uint64_t bytes = pickle_->size();
    for (const auto& [name, storage] : storages_) bytes += storage.size();
    return bytes;
}

// _reconstruct(ndarray, (0,), b'b') built with (version, shape, dtype, is_fortran, bytes).
TorchArray TorchFile::numpy(const Node& call, const std::string& what) const {
    const auto damaged = [&] { refuse("has a damaged numpy array for " + what + ": write it again"); };
    if (call.state == Pickle::kNothing) damaged();
    const Node& state = pickle_->at(call.state);
    if (state.kind != Kind::tuple || state.items.size() != 5) damaged();
    TorchArray array;
    array.shape = integers(pickle_->at(state.items[1]), what);
    const Node& dtype = pickle_->at(state.items[2]);
    const bool typed = pickle_->calls(dtype, "numpy.dtype") && !pickle_->at(dtype.items[1]).items.empty();
    if (!typed) damaged();
    const Node& code = pickle_->at(pickle_->at(dtype.items[1]).items[0]);
    const auto type = kArrays.find(code.text);
    if (type == kArrays.end()) {
        refuse("stores " + what + " as numpy's '" + printable(code.text) +
               "', which is not supported: convert it to float32");
    }
    array.dtype = type->second;
    if (dtype.state != Pickle::kNothing) {
        const Node& details = pickle_->at(dtype.state);
        const bool big = details.items.size() > 1 && pickle_->at(details.items[1]).text == ">";
        if (big) refuse("stores " + what + " in big-endian order, which is not supported: write it again");
    }
    const Node& data = pickle_->at(state.items[4]);
    if (data.kind == Kind::bytes) {
        array.bytes = {reinterpret_cast<const uint8_t*>(data.text.data()), data.text.size()};
    } else if (pickle_->calls(data, "_codecs.encode") && !pickle_->at(data.items[1]).items.empty()) {
        // Bytes 0..255 written as the letters of these numbers, in UTF-8.
        array.own = decoded(pickle_->at(pickle_->at(data.items[1]).items[0]), what);
        array.bytes = *array.own;
    } else {
        damaged();
    }
    const Node& fortran = pickle_->at(state.items[3]);
    array.strides.resize(array.shape.size());
    int64_t stride = 1;
    for (size_t i = 0; i < array.shape.size(); ++i) {
        const size_t d = fortran.integer != 0 ? i : array.shape.size() - 1 - i;
        array.strides[d] = stride;
        const int64_t dim = std::max<int64_t>(array.shape[d], 1);
        if (dim > static_cast<int64_t>(array.bytes.size()) + 1) damaged();
        if (stride > (int64_t{1} << 40) / dim) damaged();
        stride *= dim;
    }
    check_reach(array, 0, what);
    return array;
}

bool TorchFile::is_tensor(const Node& node) const {
    return pickle_->calls(node, "torch._utils._rebuild_tensor_v2") ||
           pickle_->calls(node, "torch._utils._rebuild_tensor_v3");
}

bool TorchFile::is_parameter(const Node& node) const {
    return pickle_->calls(node, "torch._utils._rebuild_parameter") ||
           pickle_->calls(node, "torch._utils._rebuild_parameter_with_state");
}

bool TorchFile::is_array(const Node& node) const {
    return is_tensor(node) || is_parameter(node) ||
           pickle_->calls(node, "numpy.core.multiarray._reconstruct") ||
           pickle_->calls(node, "numpy._core.multiarray._reconstruct");
}

bool TorchFile::is_unread_tensor(const Node& node) const {
    if (node.kind != Kind::call || is_array(node)) return false;
    const std::string& called = pickle_->at(node.items[0]).name;
    return called.starts_with("torch._utils._rebuild_") || called.starts_with("torch._tensor._rebuild_");
}

TorchArray TorchFile::array(const Node& node, const std::string& what) const {
    if (is_tensor(node)) return tensor(node, what);
    if (is_parameter(node)) {
        const Node& arguments = pickle_->at(node.items[1]);
        const Node* inner = arguments.items.empty() ? nullptr : &pickle_->at(arguments.items[0]);
        if (inner != nullptr && is_tensor(*inner)) return tensor(*inner, what);
    } else if (is_array(node)) {
        return numpy(node, what);
    }
    const Node* callee = node.kind == Kind::call ? &pickle_->at(node.items[0]) : nullptr;
    refuse("holds no tensor or numpy array for " + what +
           (callee != nullptr && callee->kind == Kind::global
                ? ", but an object of '" + printable(callee->name) + "', which is not read"
                : std::string()) +
           ": name another file");
}

}  // namespace vvtq::data
