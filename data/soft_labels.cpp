#include "data/soft_labels.h"

#include <algorithm>
#include <filesystem>

#include "data/fkd_labels.h"
#include "data/packed_labels.h"
#include "engine/check.h"

namespace vvtq::data {

namespace fs = std::filesystem;

SoftLabels::SoftLabels(std::string path, const SoftLabelHeader& header)
    : header_(header), classes_(header.classes), path_(std::move(path)) {}

LabelledCrop SoftLabels::crop(int64_t picture, const PictureLabels& labels, int m) const {
    return checked_crop(header_.type, classes_, labels, m, [&] { return place(picture); });
}

LabelledCrop checked_crop(LabelType type, int classes, const PictureLabels& labels, int m,
                          const std::function<std::string()>& place) {
    VVTQ_CHECK(m >= 0 && static_cast<size_t>(m) < labels.flips.size(), "crop ", m, " of ",
               labels.flips.size());
    const auto at = static_cast<size_t>(m);
    const auto indices = static_cast<size_t>(label_indices(type));
    const auto values = static_cast<size_t>(label_values(type, classes));
    LabelledCrop out;
    for (size_t i = 0; i < 4; ++i) out.coords[i] = labels.coords[at * 4 + i];
    out.flip = labels.flips[at] != 0;
    out.index = labels.index.subspan(at * indices, indices);
    out.value = labels.value.subspan(at * values, values);

    const auto refuse = [&](const char* reason) {
        engine::input_error(place(), ": crop ", m, " ", reason, ": make the labels again");
    };
    constexpr double kSlack = 2e-3;  // of numbers that were once 16-bit floats
    for (size_t i = 0; i < 4; ++i) {
        const double value = out.coords[i];
        if (!(value >= 0 && value <= 1 && (i < 2 || value > 0))) refuse("lies outside of [0, 1]");
    }
    for (auto index = out.index.begin(); index != out.index.end(); ++index) {
        if (!(*index >= 0 && (classes == 0 || *index < classes))) refuse("names a class that does not exist");
        if (std::find(out.index.begin(), index, *index) != index) refuse("names a class twice");
    }
    double sum = 0.0;
    for (const float value : out.value) {
        if (!(value >= 0 && value <= 1)) refuse("has a probability outside of [0, 1]");
        sum += value;
    }
    const bool whole = type == LabelType::ori;  // all probabilities are there
    if (!out.value.empty() && !(sum > (whole ? 1 - kSlack : 0) && sum <= 1 + kSlack)) {
        refuse("has probabilities that do not add up");
    }
    return out;
}

std::string label_name(const Dataset& dataset, int64_t index) {
    const std::string id = dataset.id(index);
    const fs::path root = fs::absolute(dataset.name()).lexically_normal();
    // Data sets are called by their split's folder ("imagenet/train") or by the folder of all splits.
    fs::path base = root.filename().empty() ? root.parent_path() : root;
    if (base.filename() == id.substr(0, id.find('/'))) base = base.parent_path();
    const std::string path = base.filename().string() + "/" + id;
    size_t begin = path.size();
    for (int parts = 0; parts < 4 && begin != std::string::npos && begin > 0; ++parts) {
        begin = path.rfind('/', begin - 1);
    }
    begin = begin == std::string::npos ? 0 : begin + (path[begin] == '/' ? 1 : 0);
    const size_t file = path.rfind('/') + 1;
    return path.substr(begin, std::min(path.size(), path.find('.', file)) - begin);
}

std::unique_ptr<SoftLabels> open_soft_labels(const std::string& path, const Dataset& dataset, LabelType type,
                                             bool type_given) {
    if (is_directory(path)) return std::make_unique<FkdLabels>(path, dataset, type);
    auto labels = std::make_unique<PackedLabels>(PackedLabels::open(path));
    if (type_given && labels->header().type != type) {
        engine::input_error("`label_type`: ", printable(path), " holds labels of type ",
                            label_type_name(labels->header().type), ", not ", label_type_name(type),
                            "; leave the flag out");
    }
    labels->match(dataset);
    return labels;
}

}  // namespace vvtq::data
