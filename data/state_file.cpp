#include "data/state_file.h"

#include "data/elements.h"
#include "data/torch_file.h"
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
            const Node* inner = nullptr;
            for_each_pair(pickle, pickle.root(), [&](std::string_view name, const Node& value) {
                if (name == key && pairs_of(pickle, value).items != nullptr) inner = &value;
            });
            if (inner == nullptr) continue;
            state = inner;
            break;
        }
        const bool dict = for_each_pair(pickle, *state, [&](std::string_view name, const Node& value) {
            if (!file.is_array(value)) return;
            const std::string key(without_prefix(name));
            arrays.insert_or_assign(key, file.array(value, "'" + printable(key) + "'"));
        });
        check_size(path);
        if (!dict || arrays.empty()) {
            engine::input_error("'", printable(path),
                                "' holds no state: name a file whose dict has named tensors");
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
    if (!is_torch_file(mapped.bytes())) {
        safetensors_ = std::make_unique<SafeTensors>(SafeTensors::open(path));
        metadata_ = safetensors_->metadata();
        for (const auto& [name, entry] : safetensors_->entries()) entries_[name] = {entry.dtype, entry.shape};
        return;
    }
    torch_ = std::make_unique<Torch>(std::move(mapped), path);
    for (const auto& [name, array] : torch_->arrays) entries_[name] = {array.dtype, array.shape};
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
    entry(name);
    return safetensors_ != nullptr ? safetensors_->read<To>(name) : torch_->arrays.at(name).read<To>();
}

template std::vector<float> StateFile::read(const std::string&) const;
template std::vector<double> StateFile::read(const std::string&) const;

}  // namespace vvtq::data
