// dataset: labelled pictures, in memory or in folders.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/idx.h"
#include "data/picture_reader.h"

namespace vvtq::data {

enum class Split { train, evaluation };

/// A sequence of pictures with labels. open() and picture() may be called from several threads.
class Dataset {
  public:
    virtual ~Dataset() = default;

    int64_t size() const { return static_cast<int64_t>(labels_.size()); }
    int classes() const { return static_cast<int>(class_names_.size()); }
    const std::vector<std::string>& class_names() const { return class_names_; }
    int label(int64_t index) const { return labels_.at(static_cast<size_t>(index)); }
    /// What the data set is called in messages: its directory.
    const std::string& name() const { return name_; }

    /// A name of the picture that does not change: "train/cat/0001.png", "train/00012".
    virtual std::string id(int64_t index) const = 0;
    /// Opens the picture in `reader`. Errors: input_error naming the file where it cannot be decoded.
    virtual void open(int64_t index, PictureReader& reader) const = 0;
    /// The whole picture in RGB. Errors likewise.
    Image picture(int64_t index) const;
    /// FNV-1a over kind, count, class names, ids, labels, and the pixels in memory or the sizes of the
    /// picture files: the same for the same data in any directory.
    virtual uint64_t fingerprint() const = 0;
    /// The fingerprint of the pictures that these were made from, by which labels know them: crops are
    /// relative, so labels of pictures fit the same ones brought to another size.
    virtual uint64_t origin_fingerprint() const { return fingerprint(); }

  protected:
    Dataset(std::string name, std::vector<std::string> class_names, std::vector<int> labels);

  private:
    std::string name_;
    std::vector<std::string> class_names_;
    std::vector<int> labels_;
};

/// Opens a data set.
///   kind            dir holds
///   "folder"        train/<class>/<picture>; val/ or test/ likewise for evaluation (val/ where both exist).
///                   Found as by torchvision's ImageFolder: classes sorted by name, pictures at any depth
///                   below, links followed, .jpg, .jpeg, .png, .bmp, .ppm and .pgm in any case. .tif and
///                   .webp, which torchvision takes too, are an error here. Or train/, val/ and test/ hold
///                   shards of pack_folder
///   "cifar10"       the binary batches, there or in cifar-10-batches-bin/, else as "folder", with exactly
///   ten
///                   classes
///   "fashion-mnist" {train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or .gz; empty: where Debian's
///   package
///                   puts them
/// Errors: input_error for an unknown kind, a missing or empty directory or class, and damaged idx files.
std::unique_ptr<Dataset> open_dataset(const std::string& kind, const std::string& dir, Split split);

/// Pictures in memory. pixels: (count, height, width, channels), channels 1 (gray) or 3; labels: (count).
/// ids are "<split_name>/<index>".
std::unique_ptr<Dataset> make_memory_dataset(std::string name, std::string split_name,
                                             std::vector<std::string> class_names, std::vector<int> labels,
                                             Bytes pixels, int height, int width, int channels);

/// Pictures in the order given, a folder's sorted and at any depth, or those of its shards; they have no
/// classes, so every label is 0. Errors: input_error where a path is missing, or a folder has no picture.
std::unique_ptr<Dataset> open_pictures(const std::vector<std::string>& paths);

/// Whether a file is a picture by the end of its name: .jpg, .jpeg, .png, .bmp, .ppm or .pgm in any case.
bool is_picture_name(const std::string& name);

/// Throws input_error unless both have the same classes in the same order.
void require_same_classes(const Dataset& train, const Dataset& evaluation);

/// The parts of open_dataset.
std::unique_ptr<Dataset> open_folder(const std::string& kind, const std::string& dir, Split split);
/// Where below `dir` the binary batches lie; empty where they do not.
std::string cifar10_binary_folder(const std::string& dir);
/// Appends the records of a binary batch; `path` appears in messages.
void parse_cifar10(std::span<const uint8_t> bytes, const std::string& path, std::vector<int>& labels,
                   Bytes& pixels);
std::unique_ptr<Dataset> open_cifar10_binary(const std::string& dir, Split split);
std::unique_ptr<Dataset> open_fashion_mnist(const std::string& dir, Split split);

}  // namespace vvtq::data
