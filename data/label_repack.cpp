#include "data/label_repack.h"

#include <nlohmann/json.hpp>

#include "data/fkd_labels.h"
#include "data/label_tree.h"
#include "data/packed_labels.h"
#include "data/shard_index.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

// The label files of a tree, by number.
class TreeReader {
  public:
    TreeReader(const std::string& root, LabelType type, const Dataset* dataset)
        : root_(root), type_(type), dataset_(dataset) {
        if (dataset != nullptr) {
            matched_ = std::make_unique<FkdLabels>(root, *dataset, type);
        } else {
            names_ = list_fkd(root);
        }
    }

    int64_t size() const {
        return dataset_ != nullptr ? dataset_->size() : static_cast<int64_t>(names_.size());
    }
    std::string name(int64_t i) const {
        return dataset_ != nullptr ? label_name(*dataset_, i) : names_[static_cast<size_t>(i)];
    }
    std::string place(int64_t i) const {
        return matched_ != nullptr ? matched_->place(i)
                                   : engine::concat("label file '", printable(file(i)), "'");
    }
    void read(int64_t i, PictureLabels& labels) const {
        if (matched_ != nullptr) return matched_->read(i, labels);
        read_file(file(i), "check its permissions", labels.file);
        parse_fkd(labels.file, file(i), type_, labels);
    }

  private:
    std::string file(int64_t i) const { return root_ + "/" + name(i) + ".tar"; }

    std::string root_;
    LabelType type_;
    const Dataset* dataset_;
    std::unique_ptr<FkdLabels> matched_;
    std::vector<std::string> names_;
};

}  // namespace

Repacked pack_tree(const std::string& root, const std::string& path, LabelType type, int classes,
                   const Dataset* dataset, const Stop& stop) {
    const TreeReader tree(root, type, dataset);
    PictureLabels labels;
    tree.read(0, labels);
    SoftLabelHeader header;
    header.type = type;
    header.crops = static_cast<int>(labels.flips.size());
    header.fingerprint = dataset != nullptr ? dataset->fingerprint() : 0;
    const auto of_ori = static_cast<int>(labels.value.size() / labels.flips.size());
    header.classes = dataset != nullptr ? dataset->classes() : type == LabelType::ori ? of_ori : classes;
    const size_t values = labels.value.size();
    Repacked done{0, tree.size(), ""};
    if (stop()) return done;
    PackedLabelWriter writer(path, header);
    for (; done.pictures < done.of; ++done.pictures) {
        if (stop()) return done;
        const int64_t i = done.pictures;
        tree.read(i, labels);
        if (labels.flips.size() != static_cast<size_t>(header.crops) || labels.value.size() != values) {
            engine::input_error(tree.place(i), " has ", labels.flips.size(), " crops and ",
                                labels.value.size(), " probabilities, the first one ", header.crops, " and ",
                                values, ": make the labels again");
        }
        for (int m = 0; m < header.crops; ++m) {
            checked_crop(type, header.classes, labels, m, [&] { return tree.place(i); });
        }
        writer.append(i, tree.name(i), labels);
    }
    writer.finish();
    return done;
}

Repacked unpack_tree(const std::string& path, const std::string& root, const Stop& stop) {
    const PackedLabels packed = PackedLabels::open(path);
    const PackedNames names = packed.names();
    const SoftLabelHeader& header = packed.header();
    for (int64_t i = 0; i < header.pictures; ++i) {
        if (is_plain_name(std::string(names.name(i)))) continue;
        engine::input_error("label file '", printable(path), "' names a picture '", printable(names.name(i)),
                            "', which no file can be called: make the labels again");
    }
    Repacked done{0, header.pictures, packed.note()};
    if (stop()) return done;
    const nlohmann::ordered_json origin = {{"type", label_type_name(header.type)},
                                           {"pictures", header.pictures},
                                           {"unpacked", packed.content_hash()}};
    LabelTree tree(root, origin.dump());
    PictureLabels labels;
    for (; done.pictures < done.of; ++done.pictures) {
        if (stop()) return done;
        packed.read(done.pictures, labels);
        for (int m = 0; m < header.crops; ++m) packed.crop(done.pictures, labels, m);
        tree.write(std::string(names.name(done.pictures)), header.type, header.classes, labels);
    }
    tree.flush();
    return done;
}

}  // namespace vvtq::data
