#include "data/fkd_labels.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "data/directories.h"
#include "data/elements.h"
#include "data/torch_file.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRemedy =
    "check `softlabel_path` and `label_type`, or make the labels with `vvtq softlabel`";

template <typename T>
std::span<const uint8_t> as_bytes(const std::vector<T>& values) {
    return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T)};
}

// The shape of a label after its first dimension.
std::vector<int64_t> label_shape(LabelType type, int classes) {
    switch (type) {
        case LabelType::ori:
            return {classes};
        case LabelType::hard:
            return {};
        case LabelType::smoothing:
            return {2};
        default:
            return {2, label_indices(type)};
    }
}

}  // namespace

void parse_fkd(std::span<const uint8_t> bytes, const std::string& path, LabelType type,
               PictureLabels& labels) {
    // Workers read one each, so a file must not ask for much more memory than it has bytes.
    const TorchFile file(bytes, path, {.values = 1 << 12, .inside = 8});
    const auto refuse = [&](const auto&... reason) {
        engine::input_error("label file '", printable(path), "' ", reason..., ": ", kRemedy);
    };
    const Pickle::Node& root = file.root();
    const bool listed = root.kind == Pickle::Kind::list || root.kind == Pickle::Kind::tuple;
    if (!listed || root.items.size() != 3) refuse("is not a list of coords, flip and label");
    const auto part = [&](size_t i, const char* name) {
        return file.array(file.pickle().at(root.items[i]), name);
    };
    const TorchArray coords = part(0, "coords");
    const TorchArray flips = part(1, "flip");
    const TorchArray label = part(2, "label");
    const int64_t crops = flips.shape.size() == 1 ? flips.shape[0] : 0;
    if (crops < 1 || coords.shape != std::vector<int64_t>{crops, 4}) {
        refuse("has coords ", shape_text(coords.shape), " and flip ", shape_text(flips.shape),
               ", not (M, 4) and (M)");
    }
    std::vector<int64_t> expected{crops};
    const int64_t classes = label.shape.size() == 2 ? label.shape[1] : 0;
    for (const int64_t dim : label_shape(type, static_cast<int>(std::min<int64_t>(classes, INT32_MAX)))) {
        expected.push_back(dim);
    }
    if (label.shape != expected) {
        refuse("has label ", shape_text(label.shape), ", not ", shape_text(expected), " as labels of type ",
               label_type_name(type));
    }
    const auto numbers_in = static_cast<uint64_t>(coords.count() + flips.count() + label.count());
    constexpr uint64_t kMostNumbers = 2, kSlack = 1 << 16;  // for a byte
    if (numbers_in > kMostNumbers * bytes.size() + kSlack) {
        refuse("has ", numbers_in, " numbers in ", bytes.size(), " bytes");
    }
    labels.own_coords = coords.read<float>();
    const std::vector<float> flipped = flips.read<float>();
    labels.own_flips.resize(flipped.size());
    std::transform(flipped.begin(), flipped.end(), labels.own_flips.begin(),
                   [](float flip) { return static_cast<uint8_t>(flip != 0 ? 1 : 0); });
    const std::vector<float> numbers = label.read<float>();
    labels.own_index.clear();
    labels.own_value.clear();
    if (type == LabelType::ori) {
        labels.own_value = numbers;
    } else {
        const auto k = static_cast<size_t>(label_indices(type));
        const size_t values = type == LabelType::hard ? 0 : k;
        for (size_t m = 0; m < static_cast<size_t>(crops); ++m) {
            const float* at = numbers.data() + m * (k + values);
            for (size_t i = 0; i < k; ++i) {
                const bool whole = at[i] >= 0 && at[i] < 1 << 24 && at[i] == std::floor(at[i]);
                labels.own_index.push_back(whole ? static_cast<int32_t>(at[i]) : -1);
            }
            labels.own_value.insert(labels.own_value.end(), at + k, at + k + values);
        }
    }
    labels.coords = labels.own_coords;
    labels.flips = labels.own_flips;
    labels.index = labels.own_index;
    labels.value = labels.own_value;
}

Bytes write_fkd(LabelType type, int classes, const PictureLabels& labels, const std::string& name) {
    const auto crops = static_cast<int64_t>(labels.flips.size());
    const auto k = static_cast<size_t>(label_indices(type));
    const auto values = static_cast<size_t>(label_values(type, classes));
    std::vector<float> numbers;
    for (size_t m = 0; m < static_cast<size_t>(crops); ++m) {
        for (const int32_t index : labels.index.subspan(m * k, k))
            numbers.push_back(static_cast<float>(index));
        const auto value = labels.value.subspan(m * values, values);
        numbers.insert(numbers.end(), value.begin(), value.end());
    }
    std::vector<int64_t> shape = label_shape(type, classes);
    shape.insert(shape.begin(), crops);
    const std::vector<float> coords(labels.coords.begin(), labels.coords.end());
    TorchValue::List list;
    list.push_back({TorchTensor{"F32", {crops, 4}, as_bytes(coords)}});
    list.push_back({TorchTensor{"BOOL", {crops}, labels.flips}});
    list.push_back({TorchTensor{"F32", shape, as_bytes(numbers)}});
    return write_torch({list}, name);
}

FkdLabels::FkdLabels(const std::string& root, const Dataset& dataset, LabelType type)
    : SoftLabels(root, {type, dataset.size(), 0, dataset.classes(), 0, 0, 0}), dataset_(dataset) {
    require_label_fits(type, dataset.classes());
    const std::string name = label_name(dataset, 0);
    const size_t below = name.find('/') + 1;
    std::error_code ignored;
    if (!fs::exists(file(0), ignored) && fs::exists(root + "/" + name.substr(below) + ".tar", ignored)) {
        cut_ = below;
    }
    PictureLabels labels;
    header_.crops = 0;
    read(0, labels);
    header_.crops = static_cast<int>(labels.flips.size());
    crop(0, labels, 0);
}

std::string FkdLabels::file(int64_t picture) const {
    return path() + "/" + label_name(dataset_, picture).substr(cut_) + ".tar";
}

std::string FkdLabels::place(int64_t picture) const {
    return engine::concat("label file '", printable(file(picture)), "'");
}

void FkdLabels::read(int64_t picture, PictureLabels& labels) const {
    const std::string name = file(picture);
    read_file(name, kRemedy, labels.file, [&](std::span<const uint8_t> first, uint64_t size) {
        constexpr uint64_t kMost = uint64_t{1} << 28;
        if (size > kMost || !is_torch_file(first)) {
            engine::input_error("label file '", printable(name), "' ",
                                size > kMost ? "is larger than 256 MiB" : "is no file of torch.save", ": ",
                                kRemedy);
        }
    });
    parse_fkd(labels.file, name, header_.type, labels);
    const auto crops = static_cast<int64_t>(labels.flips.size());
    if (crops < header_.crops) {
        engine::input_error("label file '", printable(name), "' has ", crops, " crops, the first picture's ",
                            header_.crops, ": make the labels again");
    }
    if (header_.type == LabelType::ori &&
        labels.value.size() != labels.flips.size() * static_cast<size_t>(classes_)) {
        engine::input_error("label file '", printable(name), "' has ",
                            labels.value.size() / labels.flips.size(), " classes, the data set ", classes_,
                            ": ", kRemedy);
    }
}

uint64_t FkdLabels::content_hash() const {
    Fnv hash;
    hash.add(label_type_name(header_.type));
    hash.add(static_cast<uint64_t>(header_.pictures));
    for (const int64_t picture : {int64_t{0}, header_.pictures - 1}) {
        PictureLabels labels;
        read(picture, labels);
        hash.add(labels.file);
    }
    return hash.value();
}

std::vector<std::string> list_fkd(const std::string& root) {
    constexpr std::string_view kEnding = ".tar";
    std::vector<std::string> names;
    for (const std::string& directory : directories_below(root, "")) {
        for (const std::string& name : names_in(root + "/" + directory).others) {
            if (!name.ends_with(kEnding) || name.size() == kEnding.size()) continue;
            names.push_back((directory.empty() ? "" : directory + "/") +
                            name.substr(0, name.size() - kEnding.size()));
        }
    }
    if (names.empty()) {
        engine::input_error("'", printable(root), "' holds no .tar files: name a tree of label files");
    }
    std::sort(names.begin(), names.end());
    return names;
}

}  // namespace vvtq::data
