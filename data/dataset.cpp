#include "data/dataset.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "engine/check.h"

namespace vvtq::data {
namespace {

class MemoryDataset : public Dataset {
  public:
    MemoryDataset(std::string name, std::string split_name, std::vector<std::string> class_names,
                  std::vector<int> labels, Bytes pixels, int height, int width, int channels)
        : Dataset(std::move(name), std::move(class_names), std::move(labels)),
          split_name_(std::move(split_name)),
          pixels_(std::move(pixels)),
          height_(height),
          width_(width),
          channels_(channels) {
        VVTQ_CHECK(height > 0 && width > 0 && (channels == 1 || channels == 3), height, " x ", width, " x ",
                   channels);
        VVTQ_CHECK(pixels_.size() == picture_bytes() * static_cast<size_t>(size()), pixels_.size(),
                   " bytes for ", size(), " pictures");
    }

    std::string id(int64_t index) const override {
        char digits[32];
        std::snprintf(digits, sizeof digits, "/%05lld", static_cast<long long>(index));
        return split_name_ + digits;
    }

    void open(int64_t index, PictureReader& reader) const override {
        VVTQ_CHECK(index >= 0 && index < size(), index);
        const uint8_t* from = pixels_.data() + picture_bytes() * static_cast<size_t>(index);
        reader.show(height_, width_, channels_, from);
    }

    uint64_t fingerprint() const override {
        Fnv fnv;
        fnv.add("memory");
        fnv.add(split_name_);
        fnv.add(static_cast<uint64_t>(size()));
        for (const int side : {height_, width_, channels_}) fnv.add(static_cast<uint64_t>(side));
        for (const std::string& each : class_names()) fnv.add(each);
        for (int64_t i = 0; i < size(); ++i) fnv.add(static_cast<uint64_t>(label(i)));
        fnv.add(pixels_);
        return fnv.value();
    }

  private:
    size_t picture_bytes() const {
        return static_cast<size_t>(height_) * static_cast<size_t>(width_ * channels_);
    }

    std::string split_name_;
    Bytes pixels_;
    int height_;
    int width_;
    int channels_;
};

// The file itself or its gzipped form, whichever is there.
std::string plain_or_gz(const std::string& path) {
    std::error_code ignored;
    const bool only_gz =
        !std::filesystem::exists(path, ignored) && std::filesystem::exists(path + ".gz", ignored);
    return only_gz ? path + ".gz" : path;
}

}  // namespace

Image Dataset::picture(int64_t index) const {
    PictureReader reader;
    open(index, reader);
    return reader.whole();
}

Dataset::Dataset(std::string name, std::vector<std::string> class_names, std::vector<int> labels)
    : name_(std::move(name)), class_names_(std::move(class_names)), labels_(std::move(labels)) {
    for (const int each : labels_) {
        VVTQ_CHECK(each >= 0 && each < classes(), "label ", each, " of ", classes(), " classes in ", name_);
    }
}

std::unique_ptr<Dataset> make_memory_dataset(std::string name, std::string split_name,
                                             std::vector<std::string> class_names, std::vector<int> labels,
                                             Bytes pixels, int height, int width, int channels) {
    return std::make_unique<MemoryDataset>(std::move(name), std::move(split_name), std::move(class_names),
                                           std::move(labels), std::move(pixels), height, width, channels);
}

std::unique_ptr<Dataset> open_fashion_mnist(const std::string& dir, Split split) {
    const std::string directory = dir.empty() ? "/usr/share/datasets/fashion-mnist" : dir;
    if (!is_directory(directory)) {
        engine::input_error(
            "no directory '", printable(directory),
            "': install the package dataset-fashion-mnist, or name its directory with `data`");
    }
    const std::string stem = directory + (split == Split::train ? "/train" : "/t10k");
    const std::string labels_path = plain_or_gz(stem + "-labels-idx1-ubyte");
    const std::string images_path = plain_or_gz(stem + "-images-idx3-ubyte");
    const Idx labels = read_idx(labels_path, 1);
    Idx images = read_idx(images_path, 3);
    if (images.dims[0] != labels.dims[0]) {
        engine::input_error("'", printable(images_path), "' holds ", images.dims[0], " pictures, but '",
                            printable(labels_path), "' ", labels.dims[0], " labels: fetch both again");
    }
    constexpr int64_t kLongestSide = 4096;
    if (images.dims[1] > kLongestSide || images.dims[2] > kLongestSide) {
        engine::input_error("'", printable(images_path), "' claims pictures of ", images.dims[1], " x ",
                            images.dims[2], " pixels: fetch the file again");
    }
    std::vector<std::string> names{"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                                   "Sandal",      "Shirt",   "Sneaker",  "Bag",   "Ankle boot"};
    std::vector<int> classes(labels.values.begin(), labels.values.end());
    const auto worst = std::max_element(classes.begin(), classes.end());
    if (*worst >= static_cast<int>(names.size())) {
        engine::input_error("'", printable(labels_path), "' holds the label ", *worst, ", but there are ",
                            names.size(), " classes: fetch the file again");
    }
    return make_memory_dataset(directory, split == Split::train ? "train" : "test", std::move(names),
                               std::move(classes), std::move(images.values), static_cast<int>(images.dims[1]),
                               static_cast<int>(images.dims[2]), 1);
}

std::unique_ptr<Dataset> open_dataset(const std::string& kind, const std::string& dir, Split split) {
    if (kind == "fashion-mnist") return open_fashion_mnist(dir, split);
    if (kind == "cifar10") {
        const std::string binary = cifar10_binary_folder(dir);
        if (!binary.empty()) return open_cifar10_binary(binary, split);
    }
    if (kind == "folder" || kind == "cifar10") return open_folder(kind, dir, split);
    engine::input_error("`dataset` ", printable(kind), ": unknown; use folder, fashion-mnist or cifar10");
}

void require_same_classes(const Dataset& train, const Dataset& evaluation) {
    if (train.class_names() == evaluation.class_names()) return;
    const auto& a = train.class_names();
    const auto& b = evaluation.class_names();
    const auto differ = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
    const std::string& odd = differ.first != a.end() ? *differ.first : *differ.second;
    engine::input_error("'", printable(train.name()), "' has ", a.size(), " classes, '",
                        printable(evaluation.name()), "' ", b.size(), ", and class '", printable(odd),
                        "' differs: give both splits the same class folders");
}

}  // namespace vvtq::data
