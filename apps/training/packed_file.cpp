#include "apps/training/packed_file.h"

#include <cmath>
#include <memory>
#include <set>
#include <sstream>

#include "apps/training/value_text.h"
#include "data/elements.h"
#include "engine/check.h"
#include "engine/kernels.h"
#include "quant/attach.h"
#include "quant/export/bit_codes.h"
#include "quant/export/weight_codes.h"

namespace vvtq::apps {
namespace {

constexpr const char* kVersionKey = "format_version";
constexpr const char* kPackedVersion = "3";  // of a checkpoint's format
constexpr const char* kCheckpointVersion = "2";
constexpr const char* kCodes = "codes";
constexpr const char* kFloats[] = {"f32", "f16"};
constexpr const char* kTable = "_table";  // behind a tensor's name: the metadata that lists what is in it

/// "blocks.0.mlp.fc1.weight" -> "blocks.0.mlp.fc1" + end.
std::string beside(const std::string& weight, const std::string& end) {
    return weight.substr(0, weight.rfind('.') + 1) + end;
}

/// The tensors of the file as they grow, and the tables of what is in them.
class Writer {
  public:
    explicit Writer(PackedFloats floats) : half_(floats == PackedFloats::f16) {}

    void add_codes(const std::string& name, const nn::Tensor& weight, const quant::WeightCodes& codes) {
        const std::vector<uint8_t> packed = quant::pack_codes(codes.codes, codes.bits);
        bytes_[kCodes].insert(bytes_[kCodes].end(), packed.begin(), packed.end());
        tables_[kCodes] +=
            engine::concat(name, ' ', codes.bits, ' ', codes.inner, sizes(weight.shape()), '\n');
        if (codes.learned) return;  // the steps are parameters
        const nn::Tensor steps({static_cast<int64_t>(codes.steps.size())}, engine::DType::f32);
        std::copy(codes.steps.begin(), codes.steps.end(), steps.data<float>());
        add_floats(beside(name, "scale"), steps, half_);
    }

    void add_parameter(const std::string& name, const nn::Tensor& tensor) { add_floats(name, tensor, half_); }
    void add_statistics(const std::string& name, const nn::Tensor& tensor) {
        add_floats(name, tensor, false);
    }

    void write(const std::string& path, std::map<std::string, std::string> metadata) const {
        std::vector<data::TensorBytes> tensors;
        for (const auto& [name, bytes] : bytes_) {
            const char* dtype = name == kCodes ? "U8" : name == kFloats[0] ? "F32" : "F16";
            tensors.push_back({name, dtype, {}, bytes});
            tensors.back().shape = {static_cast<int64_t>(bytes.size() / data::element_size(dtype))};
            metadata[name + kTable] = tables_.at(name);
        }
        metadata[kVersionKey] = kPackedVersion;
        data::write_safetensors(path, tensors, metadata);
    }

  private:
    static std::string sizes(const engine::Shape& shape) {
        std::string text;
        for (const int64_t dim : shape.vec()) text += ' ' + std::to_string(dim);
        return text;
    }

    void add_floats(const std::string& name, const nn::Tensor& tensor, bool half) {
        data::Bytes& to = bytes_[kFloats[half ? 1 : 0]];
        tables_[kFloats[half ? 1 : 0]] += name + sizes(tensor.shape()) + '\n';
        const float* values = tensor.data<float>();
        for (int64_t i = 0; i < tensor.numel(); ++i) {
            const uint16_t bits = data::half_bits(values[i]);
            if (half && (bits & 0x7FFFU) >= 0x7C00U) {
                engine::input_error(name, " has ", values[i],
                                    ", which 16 bits cannot hold: leave `float16` out");
            }
            const auto* from =
                half ? reinterpret_cast<const uint8_t*>(&bits) : reinterpret_cast<const uint8_t*>(&values[i]);
            to.insert(to.end(), from, from + (half ? sizeof bits : sizeof(float)));
        }
    }

    bool half_;
    std::map<std::string, data::Bytes> bytes_;
    std::map<std::string, std::string> tables_;
};

/// One line of a table: a tensor and where its bytes lie.
struct Line {
    std::string name;
    int bits = 0;  // of codes
    int64_t inner = 0;
    std::vector<int64_t> shape;
    uint64_t count = 0;
    size_t begin = 0, end = 0;
};

/// Reads the tables; every failure names the file.
class Reader {
  public:
    Reader(const data::StateFile& file, const std::string& path)
        : file_(file), stored_(std::make_shared<data::SafeTensors>(*file.safetensors())), path_(path) {}

    std::map<std::string, data::StateFile::Entry> entries() {
        std::map<std::string, data::StateFile::Entry> all;
        const auto add = [&](const Line& line, std::function<std::vector<float>()> computed,
                             std::function<std::vector<int8_t>()> codes = {}) {
            const data::StateFile::Entry entry{"F32",     line.shape,      line.name, std::move(computed),
                                               line.bits, std::move(codes)};
            const bool added = all.emplace(line.name, entry).second;
            if (!added) fail("its table names '", data::printable(line.name), "' twice");
        };
        for (const char* tensor : kFloats) {
            for (const Line& line : lines(tensor)) add(line, floats(tensor, line));
        }
        std::set<std::string> no_parameters;
        for (const Line& line : lines(kCodes)) {
            std::string steps = beside(line.name, "alpha");
            if (all.count(steps) == 0) no_parameters.insert(steps = beside(line.name, "scale"));
            const auto found = all.find(steps);
            if (found == all.end()) fail("it has no steps for '", data::printable(line.name), "'");
            add(line, weight(line, found->second.computed), codes(line));
        }
        for (const std::string& name : no_parameters) all.erase(name);
        return all;
    }

  private:
    template <typename... Reason>
    [[noreturn]] void fail(const Reason&... reason) const {
        engine::input_error("'", data::printable(path_), "' is not well packed: ", reason...,
                            "; export it again");
    }

    std::function<std::vector<float>()> floats(const char* tensor, const Line& line) const {
        return [stored = stored_, tensor, line] {
            const data::Element& element = *data::find_element(stored->entry(tensor).dtype);
            const auto bytes = stored->bytes(tensor);
            std::vector<float> values(line.count);
            for (size_t i = 0; i < values.size(); ++i) {
                values[i] = element.to_float(&bytes[line.begin + i * element.size]);
            }
            return values;
        };
    }

    std::function<std::vector<int8_t>()> codes(const Line& line) const {
        return [stored = stored_, line] {
            const auto bytes = stored->bytes(kCodes).subspan(line.begin, line.end - line.begin);
            return quant::unpack_codes(bytes, line.count, line.bits);
        };
    }

    std::function<std::vector<float>()> weight(const Line& line,
                                               std::function<std::vector<float>()> steps) const {
        return [codes_of = codes(line), line, steps = std::move(steps)] {
            const std::vector<int8_t> codes = codes_of();
            const std::vector<float> a = steps();
            std::vector<float> values(codes.size());
            for (size_t i = 0; i < values.size(); ++i) {
                values[i] = a[i / static_cast<size_t>(line.inner) % a.size()] * static_cast<float>(codes[i]);
            }
            return values;
        };
    }

    /// The table of a tensor, which must describe every byte of it. Empty where the file has neither.
    std::vector<Line> lines(const std::string& tensor) const {
        std::vector<Line> result;
        const auto table = file_.metadata().find(tensor + kTable);
        if (table == file_.metadata().end() && !stored_->contains(tensor)) return result;
        if (table == file_.metadata().end()) fail("its table of '", tensor, "' is missing");
        const data::SafeTensors::Entry& entry = stored_->entry(tensor);
        const bool codes = tensor == kCodes;
        if (codes ? entry.dtype != "U8" : entry.dtype != (tensor == kFloats[0] ? "F32" : "F16")) {
            fail("'", tensor, "' is of type ", entry.dtype);
        }
        size_t at = 0;
        std::istringstream text(table->second);
        for (std::string row; std::getline(text, row);) {
            Line line = parsed(row, codes);
            const size_t left = entry.end - entry.begin - at;
            const size_t size = codes ? quant::packed_size(line.count, line.bits)
                                      : line.count * data::element_size(entry.dtype);
            if (size > left) fail("'", tensor, "' ends within '", data::printable(line.name), "'");
            line.begin = at;
            line.end = at += size;
            result.push_back(std::move(line));
        }
        if (at != entry.end - entry.begin) fail("its table tells of ", at, " bytes of '", tensor, "' alone");
        return result;
    }

    /// "NAME BITS INNER SIZE...", of floats "NAME SIZE...".
    Line parsed(const std::string& row, bool codes) const {
        Line line;
        std::istringstream words(row);
        words >> line.name;
        if (codes) words >> line.bits >> line.inner;
        bool good = !line.name.empty() && !words.fail();
        if (codes) good = good && line.bits >= 1 && line.bits <= 8 && line.inner >= 1;
        constexpr uint64_t kMost = uint64_t{1} << 40;  // elements
        line.count = 1;
        while (good && words >> std::ws && !words.eof()) {
            int64_t dim = 0;
            words >> dim;
            good = !words.fail() && dim >= 1 && static_cast<uint64_t>(dim) <= kMost / line.count;
            if (good) line.count *= static_cast<uint64_t>(dim);
            line.shape.push_back(dim);
        }
        if (!good || line.shape.empty()) fail("a line of its tables is '", data::printable(row), "'");
        return line;
    }

    const data::StateFile& file_;
    std::shared_ptr<data::SafeTensors> stored_;  // shared with the functions that read from it later
    std::string path_;
};

}  // namespace

void save_packed(const std::string& path, const CheckpointInfo& info, nn::Model& model, PackedFloats floats) {
    std::map<const void*, quant::WeightCodes> codes;  // by the weights' memory
    for (const auto& [name, slot] : quant::slots(model)) {
        if (slot->get() == nullptr) continue;
        if (slot->get()->ready()) engine::kernels(engine::Device::cpu).clamp_steps(slot->get()->steps());
        if (auto found = quant::weight_codes(*slot)) codes[slot->weight().value().raw()] = std::move(*found);
    }
    if (codes.empty()) {
        engine::input_error("a full-precision model has no codes to pack; train it with `wbits` first");
    }
    Writer writer(floats);
    std::set<const void*> written;  // a parameter that is used twice stands under its first name
    for (const nn::NamedParameter& p : model.parameters()) {
        const nn::Tensor& value = p.parameter.value();
        if (!written.insert(value.raw()).second) continue;
        const auto found = codes.find(value.raw());
        if (found == codes.end()) {
            writer.add_parameter(p.name, value);
        } else {
            writer.add_codes(p.name, value, found->second);
        }
    }
    for (const auto& [name, buffer] : model.buffers()) writer.add_statistics(name, buffer);
    writer.write(path, to_metadata(info));
}

bool is_packed(const std::map<std::string, std::string>& metadata) {
    const auto version = metadata.find(kVersionKey);
    return is_checkpoint(metadata) && version != metadata.end() && version->second == kPackedVersion;
}

void unpack(data::StateFile& file, const std::string& path) {
    if (file.safetensors() == nullptr || file.safetensors()->entries().count(kCodes) == 0) {
        engine::input_error("'", data::printable(path),
                            "' has no codes, although it is a packed file; export it again");
    }
    auto entries = Reader(file, path).entries();
    std::map<std::string, std::string> metadata = file.metadata();
    metadata[kVersionKey] = kCheckpointVersion;
    for (const std::string tensor : {kCodes, kFloats[0], kFloats[1]}) metadata.erase(tensor + kTable);
    file.replace(std::move(entries), std::move(metadata));
}

}  // namespace vvtq::apps
