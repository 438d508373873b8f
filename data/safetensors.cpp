#include "data/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "data/elements.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

constexpr uint64_t kLargestHeader = 100'000'000;  // the format's own limit
constexpr const char* kRemedy = "name a complete .safetensors or .pth file";
constexpr size_t kPrefix = 8;

constexpr const char* kHeaderCheck = "crc32";
constexpr const char* kTensorChecks = "tensor_crc32";
constexpr size_t kDigits = 8;  // of a checksum

std::string check_text(std::span<const uint8_t> bytes) {
    char text[kDigits + 1];
    std::snprintf(text, sizeof text, "%08x", checksum(bytes));
    return text;
}

// Where the digits of the header's own checksum begin; npos where it has none.
size_t place_of_check(std::string_view header) {
    const std::string before = std::string("\"") + kHeaderCheck + "\":\"";
    const size_t at = header.find(before);
    const size_t digits = at + before.size();
    return at == header.npos || digits + kDigits > header.size() ? header.npos : digits;
}

// Looks through a header before it is parsed: whether it is nested deeper than the format needs, or names a
// key twice. (json's own callback would need time that grows with the square of the names.)
class HeaderCheck : public nlohmann::json_sax<json> {
  public:
    bool null() override { return true; }
    bool boolean(bool) override { return true; }
    bool number_integer(number_integer_t) override { return true; }
    bool number_unsigned(number_unsigned_t) override { return true; }
    bool number_float(number_float_t, const string_t&) override { return true; }
    bool string(string_t&) override { return true; }
    bool binary(binary_t&) override { return true; }
    bool start_object(size_t) override {
        keys_.emplace_back();
        return enter();
    }
    bool key(string_t& name) override { return keys_.back().insert(name).second; }
    bool end_object() override {
        keys_.pop_back();
        return leave();
    }
    bool start_array(size_t) override { return enter(); }
    bool end_array() override { return leave(); }
    bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override {
        return false;
    }

  private:
    bool enter() {
        constexpr int kDeepest = 3;  // tensor name -> field -> list
        return ++depth_ <= kDeepest;
    }
    bool leave() {
        --depth_;
        return true;
    }

    int depth_ = 0;
    std::vector<std::set<std::string>> keys_;
};

// Parses the header; null where it is not JSON, or not one that HeaderCheck passes.
json parse_header(std::span<const uint8_t> text) {
    HeaderCheck check;
    if (!json::sax_parse(text.begin(), text.end(), &check)) return {};
    json header = json::parse(text.begin(), text.end(), nullptr, false);
    return header.is_object() ? header : json();
}

}  // namespace

int64_t SafeTensors::Entry::count() const {
    if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;  // the others may be anything
    int64_t count = 1;
    for (const int64_t dim : shape) count *= dim;
    return count;
}

SafeTensors::SafeTensors(const std::string& path, MappedFile file) : path_(path), file_(std::move(file)) {}

SafeTensors SafeTensors::open(const std::string& path) {
    SafeTensors file(path, MappedFile(path, kRemedy));
    const auto refuse = [&](const auto&... reason) {
        engine::input_error("'", printable(path), "' ", reason..., ": ", kRemedy);
    };
    const auto bytes = file.file_.bytes();
    if (bytes.size() < kPrefix) refuse("is truncated or not a safetensors file");
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), kPrefix);
    if (length > kLargestHeader || length > bytes.size() - kPrefix) {
        refuse("is truncated or not a safetensors file: its header claims ", length, " bytes");
    }
    const json header = parse_header(bytes.subspan(kPrefix, length));
    if (header.is_null()) refuse("has a header that is not JSON, or names something twice");
    file.data_at_ = kPrefix + length;
    const uint64_t data_size = bytes.size() - file.data_at_;

    std::vector<std::pair<uint64_t, uint64_t>> ranges;
    for (const auto& [name, value] : header.items()) {
        if (!value.is_object()) refuse("describes '", printable(name), "' by something that is no object");
        if (name == "__metadata__") {
            for (const auto& [key, text] : value.items()) {
                if (!text.is_string()) refuse("has metadata '", printable(key), "' that is not text");
                file.metadata_[key] = text.get<std::string>();
            }
            continue;
        }
        const auto wrong = [&, &tensor = name](const auto&... reason) {  // clang 14 wants it named
            refuse("has tensor '", printable(tensor), "' ", reason...);
        };
        const json dtype = value.value("dtype", json());
        const json shape = value.value("shape", json());
        const json offsets = value.value("data_offsets", json());
        const auto is_size = [](const json& number) { return number.is_number_unsigned(); };
        constexpr size_t kMostDims = 64;
        if (!dtype.is_string() || !shape.is_array() || shape.size() > kMostDims || !offsets.is_array() ||
            offsets.size() != 2 || !std::all_of(shape.begin(), shape.end(), is_size) ||
            !is_size(offsets[0]) || !is_size(offsets[1])) {
            wrong("without proper dtype, shape and data_offsets");
        }
        Entry entry;
        entry.dtype = dtype.get<std::string>();
        uint64_t size = element_size(entry.dtype);
        if (size == 0) wrong("of unknown type '", printable(entry.dtype), "'");
        bool fits = true;
        for (const json& dim : shape) {
            const auto extent = dim.get<uint64_t>();
            fits = fits && extent <= INT64_MAX && (extent == 0 || size <= UINT64_MAX / extent);
            size *= fits ? extent : 0;
            entry.shape.push_back(static_cast<int64_t>(fits ? extent : 0));
        }
        const auto begin = offsets[0].get<uint64_t>();
        const auto end = offsets[1].get<uint64_t>();
        if (!fits || begin > end || end - begin != size) {
            wrong("whose place in the file does not match its shape");
        }
        if (end > data_size) {
            refuse("is truncated: tensor '", printable(name), "' ends at byte ", end,
                   " of the data, which has ", data_size);
        }
        entry.begin = begin;
        entry.end = end;
        ranges.emplace_back(begin, end);
        file.entries_.emplace(name, std::move(entry));
    }
    std::sort(ranges.begin(), ranges.end());
    uint64_t covered = 0;
    for (const auto& [begin, end] : ranges) {
        if (begin != covered) refuse("has tensors that overlap or leave gaps");
        covered = end;
    }
    if (covered != data_size) refuse("has ", data_size - covered, " bytes that belong to no tensor");
    file.verify();
    return file;
}

void SafeTensors::verify() {
    const auto own = metadata_.extract(kHeaderCheck), tensors = metadata_.extract(kTensorChecks);
    if (own.empty() && tensors.empty()) return;
    const auto damaged = [&](const auto&... what) {
        engine::input_error("'", printable(path_), "' is damaged: the checksum of ", what...,
                            " does not fit; use a copy of the file or an earlier checkpoint");
    };
    const auto header = file_.bytes().subspan(kPrefix, data_at_ - kPrefix);
    std::string text(header.begin(), header.end());
    const size_t place = place_of_check(text);
    if (own.empty() || tensors.empty() || place == text.npos) damaged("its header");
    text.replace(place, kDigits, kDigits, '0');
    if (check_text({reinterpret_cast<const uint8_t*>(text.data()), text.size()}) != own.mapped()) {
        damaged("its header");
    }
    const json checks = json::parse(tensors.mapped(), nullptr, false);
    for (const auto& [name, entry] : entries_) {
        const auto check = checks.find(name);
        if (check == checks.end() || *check != check_text(bytes(name))) {
            damaged("tensor '", printable(name), "'");
        }
    }
    has_checksums_ = true;
}

const SafeTensors::Entry& SafeTensors::entry(const std::string& name) const {
    const auto found = entries_.find(name);
    if (found == entries_.end()) {
        engine::input_error("'", printable(path_), "' has no tensor '", printable(name),
                            "': name a checkpoint of the same model");
    }
    return found->second;
}

std::span<const uint8_t> SafeTensors::bytes(const std::string& name) const {
    const Entry& found = entry(name);
    return file_.bytes().subspan(data_at_ + found.begin, found.end - found.begin);
}

template <typename To>
std::vector<To> SafeTensors::read(const std::string& name) const {
    const Entry& found = entry(name);
    const auto from = bytes(name);
    const Element& element = *find_element(found.dtype);
    std::vector<To> out(from.size() / element.size);
    for (size_t i = 0; i < out.size(); ++i) out[i] = read_element<To>(element, &from[i * element.size]);
    return out;
}

template std::vector<float> SafeTensors::read(const std::string&) const;
template std::vector<double> SafeTensors::read(const std::string&) const;

void write_safetensors(const std::string& path, const std::vector<TensorBytes>& tensors,
                       const std::map<std::string, std::string>& metadata) {
    std::vector<const TensorBytes*> order;
    for (const TensorBytes& tensor : tensors) order.push_back(&tensor);
    std::stable_sort(order.begin(), order.end(), [](const TensorBytes* a, const TensorBytes* b) {
        return element_size(a->dtype) > element_size(b->dtype);
    });
    json header = json::object(), checks = json::object();
    size_t at = 0;
    for (const TensorBytes* tensor : order) {
        size_t size = element_size(tensor->dtype);
        for (const int64_t dim : tensor->shape) size *= static_cast<size_t>(dim);
        VVTQ_CHECK(element_size(tensor->dtype) != 0 && tensor->data.size() == size, "tensor '", tensor->name,
                   "' of type ", tensor->dtype, ": ", tensor->data.size(), " bytes instead of ", size);
        VVTQ_CHECK(!header.contains(tensor->name), "tensor '", tensor->name, "' twice");
        header[tensor->name] = {
            {"dtype", tensor->dtype}, {"shape", tensor->shape}, {"data_offsets", {at, at + size}}};
        checks[tensor->name] = check_text(tensor->data);
        at += size;
    }
    const auto dump = [](const json& value) {
        return value.dump(-1, ' ', false, json::error_handler_t::replace);
    };
    header["__metadata__"] = metadata;
    header["__metadata__"][kHeaderCheck] = std::string(kDigits, '0');
    header["__metadata__"][kTensorChecks] = dump(checks);
    std::string text = dump(header);
    text.resize((text.size() + kPrefix - 1) / kPrefix * kPrefix, ' ');
    const std::string check = check_text({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
    text.replace(place_of_check(text), kDigits, check);
    const uint64_t length = text.size();
    AtomicFile file(path);
    file.write(&length, kPrefix);
    file.write(text.data(), text.size());
    for (const TensorBytes* tensor : order) file.write(tensor->data.data(), tensor->data.size());
    file.commit();
}

}  // namespace vvtq::data
