#include "data/state_file.h"

#include <algorithm>

#include "data/elements.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

using Kind = Pickle::Kind;
using Node = Pickle::Node;

/// The key-value pairs of a dict, or of a call that made an OrderedDict; their flat list and where it begins.
struct Pairs {
    const std::vector<Pickle::Ref>* items = nullptr;
    size_t begin = 0;
};

Pairs pairs_of(const Pickle& pickle, const Node& node) {
    if (node.kind == Kind::dict) return {&node.items, 0};
    constexpr size_t kCallee = 2;  // the items before the pairs: what is called, and with what
    if (pickle.calls(node, "collections.OrderedDict")) return {&node.items, kCallee};
    return {};
}

/// The value of a text key; null where there is none.
const Node* find(const Pickle& pickle, const Node& node, std::string_view key) {
    const Pairs pairs = pairs_of(pickle, node);
    for (size_t i = pairs.begin; pairs.items != nullptr && i + 1 < pairs.items->size(); i += 2) {
        const Node& name = pickle.at((*pairs.items)[i]);
        if (name.kind == Kind::text && name.text == key) return &pickle.at((*pairs.items)[i + 1]);
    }
    return nullptr;
}

/// f(key, value) of every text key; false where the node is no dict.
template <typename F>
bool for_each_pair(const Pickle& pickle, const Node& node, F&& f) {
    const Pairs pairs = pairs_of(pickle, node);
    if (pairs.items == nullptr) return false;
    for (size_t i = pairs.begin; i + 1 < pairs.items->size(); i += 2) {
        const Node& key = pickle.at((*pairs.items)[i]);
        if (key.kind == Kind::text) f(key.text, pickle.at((*pairs.items)[i + 1]));
    }
    return true;
}

std::string_view without_prefix(std::string_view name) {
    constexpr std::string_view kPrefix = "module.";  // of torch's wrapper for several GPUs
    while (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
    return name;
}

}  // namespace

struct StateFile::Torch {
    MappedFile mapped;
    TorchFile file;
    std::map<std::string, TorchArray> arrays;

    Torch(MappedFile bytes, const std::string& path) : mapped(std::move(bytes)), file(mapped.bytes(), path) {
        const Pickle& pickle = file.pickle();
        const Node* state = &pickle.root();
        for (const char* key : {"model", "state_dict", "module", "state_dict_ema"}) {
            const Node* inner = find(pickle, pickle.root(), key);
            if (inner == nullptr || pairs_of(pickle, *inner).items == nullptr) continue;
            state = inner;
            break;
        }
        const bool dict = for_each_pair(pickle, *state, [&](std::string_view name, const Node& value) {
            if (!file.is_array(value) && !file.is_unread_tensor(value)) return;
            arrays.insert_or_assign(std::string(name), file.array(value, "'" + printable(name) + "'"));
        });
        if (!dict || arrays.empty()) {
            engine::input_error("'", printable(path),
                                "' holds no state: name a file whose dict has named tensors");
        }
        add_optimizer(pickle, path);
        check_size(path);
    }

    /// torch.optim's: "state" has a dict of tensors for each number of a parameter, and the groups say which
    /// numbers and names belong together.
    void add_optimizer(const Pickle& pickle, const std::string& path) {
        // a few bytes can name a long list, or a long name, again and again
        constexpr uint64_t kMost = 1 << 20, kLongest = 1000;
        uint64_t looked = 0;
        const auto look = [&](const std::vector<Pickle::Ref>& items) {
            looked += items.size();
            if (looked <= kMost) return;
            engine::input_error("'", printable(path), "' has an optimizer of more than ", kMost,
                                " values: fetch it again");
        };
        const Node* optimizer = find(pickle, pickle.root(), "optimizer");
        const Node* state = optimizer == nullptr ? nullptr : find(pickle, *optimizer, "state");
        const Node* groups = optimizer == nullptr ? nullptr : find(pickle, *optimizer, "param_groups");
        if (state == nullptr || groups == nullptr || groups->kind != Kind::list) return;
        std::map<int64_t, std::string_view> names;
        for (const Pickle::Ref ref : groups->items) {
            look(pickle.at(ref).items);
            const Node* numbers = find(pickle, pickle.at(ref), "params");
            const Node* called = find(pickle, pickle.at(ref), "param_names");
            if (numbers == nullptr || called == nullptr) return;
            look(numbers->items);
            for (size_t i = 0; i < std::min(numbers->items.size(), called->items.size()); ++i) {
                names[pickle.at(numbers->items[i]).integer] = pickle.at(called->items[i]).text;
            }
        }
        const Pairs pairs = pairs_of(pickle, *state);
        for (size_t i = pairs.begin; pairs.items != nullptr && i + 1 < pairs.items->size(); i += 2) {
            const auto name = names.find(pickle.at((*pairs.items)[i]).integer);
            if (name == names.end()) continue;
            const Node& tensors = pickle.at((*pairs.items)[i + 1]);
            look(tensors.items);
            for_each_pair(pickle, tensors, [&](std::string_view key, const Node& value) {
                if (!file.is_array(value) || name->second.size() + key.size() > kLongest) return;
                const std::string full = engine::concat(kOptimizerPrefix, name->second, ".", key);
                TorchArray array = file.array(value, "'" + full + "'");
                if (!array.shape.empty()) arrays.insert_or_assign(full, std::move(array));  // not "step"
            });
        }
    }

    /// Tensors may share their storage, but not so that a small file describes a model without end.
    void check_size(const std::string& path) const {
        constexpr uint64_t kShared = 4, kSlack = 1 << 24;
        uint64_t bytes = 0;
        for (const auto& [name, array] : arrays)
            bytes += static_cast<uint64_t>(array.count()) * element_size(array.dtype);
        if (bytes > kShared * file.content() + kSlack) {
            engine::input_error("'", printable(path), "' describes ", bytes, " bytes of tensors, but holds ",
                                file.content(), ": fetch it again");
        }
    }
};

StateFile::StateFile(const std::string& path) : path_(path) {
    MappedFile mapped(path, "name a checkpoint");
    if (path.ends_with(".onnx")) {
        engine::input_error("'", printable(path),
                            "' is an ONNX file, which is written but not read; name a checkpoint, ",
                            "such as a .safetensors or .pth file");
    }
    if (!is_torch_file(mapped.bytes())) {
        safetensors_ = std::make_unique<SafeTensors>(SafeTensors::open(path));
        metadata_ = safetensors_->metadata();
        for (const auto& [name, entry] : safetensors_->entries()) add(name, entry.dtype, entry.shape);
        return;
    }
    torch_ = std::make_unique<Torch>(std::move(mapped), path);
    for (const auto& [name, array] : torch_->arrays) add(name, array.dtype, array.shape);
    const Pickle& pickle = torch_->file.pickle();
    const Node* texts = find(pickle, pickle.root(), "vvtq");
    if (texts == nullptr) return;
    uint64_t size = 0;  // a few bytes can name a long text again and again
    for_each_pair(pickle, *texts, [&](std::string_view key, const Node& value) {
        if (value.kind != Kind::text) return;
        size += value.text.size();
        if (size > torch_->file.content()) {
            engine::input_error("'", printable(path), "' repeats its metadata: fetch it again");
        }
        metadata_.emplace(key, value.text);
    });
}

void StateFile::add(const std::string& stored, const std::string& dtype, const std::vector<int64_t>& shape) {
    const std::string name(without_prefix(stored));
    const bool taken =
        safetensors_ != nullptr ? safetensors_->entries().count(name) != 0 : torch_->arrays.count(name) != 0;
    const bool keeps = taken || entries_.count(name) != 0;  // the file has the shorter name, too
    entries_[keeps ? stored : name] = {dtype, shape, stored};
}

void StateFile::replace(std::map<std::string, Entry> entries, std::map<std::string, std::string> metadata) {
    entries_ = std::move(entries);
    metadata_ = std::move(metadata);
}

bool StateFile::has_checksums() const {
    return safetensors_ != nullptr ? safetensors_->has_checksums() : torch_->file.is_zip();
}

StateFile::~StateFile() = default;

const StateFile::Entry& StateFile::entry(const std::string& name) const {
    const auto found = entries_.find(name);
    if (found == entries_.end()) {
        engine::input_error("'", printable(path_), "' has no tensor '", printable(name),
                            "': name a checkpoint of the same model");
    }
    return found->second;
}

template <typename To>
std::vector<To> StateFile::read(const std::string& name) const {
    const Entry& found = entry(name);
    if (found.computed) {
        const std::vector<float> values = found.computed();
        return {values.begin(), values.end()};
    }
    return safetensors_ != nullptr ? safetensors_->read<To>(found.stored)
                                   : torch_->arrays.at(found.stored).read<To>();
}

Bytes StateFile::bytes(const std::string& name) const {
    const Entry& found = entry(name);
    if (found.computed) {
        const std::vector<float> values = found.computed();
        const auto* begin = reinterpret_cast<const uint8_t*>(values.data());
        return {begin, begin + values.size() * sizeof(float)};
    }
    if (torch_ != nullptr) return torch_->arrays.at(found.stored).contiguous();
    const auto bytes = safetensors_->bytes(found.stored);
    return {bytes.begin(), bytes.end()};
}

bool is_torch_path(const std::string& path) {
    return path.ends_with(".pth") || path.ends_with(".pt") || path.ends_with(".pth.tar");
}

template std::vector<float> StateFile::read(const std::string&) const;
template std::vector<double> StateFile::read(const std::string&) const;

}  // namespace vvtq::data
