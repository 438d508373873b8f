#include "data/label_sink.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/fkd_labels.h"
#include "data/packed_labels.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

namespace fs = std::filesystem;

class PackedSink : public LabelSink {
  public:
    PackedSink(const std::string& path, const SoftLabelHeader& header, const Dataset& dataset)
        : dataset_(dataset), writer_(path, header) {}
    int64_t resume() override { return writer_.resume(dataset_); }
    void append(int64_t picture, const PictureLabels& labels) override {
        writer_.append(picture, label_name(dataset_, picture), labels);
    }
    void finish() override { writer_.finish(); }

  private:
    const Dataset& dataset_;
    PackedLabelWriter writer_;
};

void write_label_file(const std::string& path, LabelType type, int classes, const PictureLabels& labels) {
    const Bytes bytes = write_fkd(type, classes, labels, fs::path(path).stem().string());
    std::error_code ignored;  // told of by the file that cannot be made then
    fs::create_directories(fs::path(path).parent_path(), ignored);
    AtomicFile file(path);
    file.write(bytes.data(), bytes.size());
    file.commit(false);
}

// Beside the label files lies softlabel.json, which says how they were made.
class TreeSink : public LabelSink {
  public:
    TreeSink(const std::string& root, const SoftLabelHeader& header, const Dataset& dataset)
        : root_(root), header_(header), dataset_(dataset) {
        require_label_fits(header.type, header.classes);
        std::error_code error;
        fs::create_directories(root, error);
        if (error || !is_directory(root)) {
            engine::input_error("cannot make the folder '", printable(root),
                                "': name one in a directory that exists and is writable");
        }
        const nlohmann::ordered_json wanted = {
            {"type", label_type_name(header.type)}, {"crops", header.crops}, {"classes", header.classes},
            {"dataset", header.fingerprint},        {"seed", header.seed},   {"settings", header.settings}};
        const std::string text = wanted.dump() + "\n";
        const std::string path = root + "/softlabel.json";
        if (fs::exists(path, error)) {
            const Bytes held = read_file(path, "remove it");
            if (!std::equal(held.begin(), held.end(), text.begin(), text.end())) {
                engine::input_error("'", printable(root),
                                    "' holds labels begun with other settings: go on with those, or name "
                                    "another folder");
            }
            return;
        }
        if (!fs::is_empty(root, error)) {
            engine::input_error("the folder '", printable(root), "' is not empty: name another");
        }
        AtomicFile file(path);
        file.write(text.data(), text.size());
        file.commit();
    }

    int64_t resume() override {
        std::error_code ignored;
        int64_t next = 0;
        while (next < dataset_.size() && fs::exists(path_of(next), ignored)) ++next;
        return next;
    }
    void append(int64_t picture, const PictureLabels& labels) override {
        write_label_file(path_of(picture), header_.type, header_.classes, labels);
    }
    void finish() override {}

  private:
    std::string path_of(int64_t picture) const {
        return root_ + "/" + label_name(dataset_, picture) + ".tar";
    }

    std::string root_;
    SoftLabelHeader header_;
    const Dataset& dataset_;
};

}  // namespace

std::unique_ptr<LabelSink> make_packed_sink(const std::string& path, const SoftLabelHeader& header,
                                            const Dataset& dataset) {
    return std::make_unique<PackedSink>(path, header, dataset);
}

std::unique_ptr<LabelSink> make_tree_sink(const std::string& root, const SoftLabelHeader& header,
                                          const Dataset& dataset) {
    return std::make_unique<TreeSink>(root, header, dataset);
}

int64_t pack_tree(const std::string& root, const std::string& path, LabelType type, int classes,
                  const Dataset* dataset) {
    std::unique_ptr<FkdLabels> matched;
    std::vector<std::string> names;
    if (dataset != nullptr) {
        matched = std::make_unique<FkdLabels>(root, *dataset, type);
    } else {
        names = list_fkd(root);
    }
    const int64_t count = dataset != nullptr ? dataset->size() : static_cast<int64_t>(names.size());
    PictureLabels labels;
    std::string name, file;
    const auto read = [&](int64_t i) {
        if (matched) {
            name = label_name(*dataset, i);
            file = matched->place(i);
            matched->read(i, labels);
            return;
        }
        name = names[static_cast<size_t>(i)];
        const std::string label_path = root + "/" + name + ".tar";
        file = engine::concat("label file '", printable(label_path), "'");
        read_file(label_path, "check its permissions", labels.file);
        parse_fkd(labels.file, label_path, type, labels);
    };
    read(0);
    SoftLabelHeader header;
    header.type = type;
    header.crops = static_cast<int>(labels.flips.size());
    header.fingerprint = dataset != nullptr ? dataset->fingerprint() : 0;
    const auto of_ori = static_cast<int>(labels.value.size() / labels.flips.size());
    header.classes = dataset != nullptr ? dataset->classes() : type == LabelType::ori ? of_ori : classes;
    const size_t values = labels.value.size();
    PackedLabelWriter writer(path, header);
    for (int64_t i = 0; i < count; ++i) {
        read(i);
        if (labels.flips.size() != static_cast<size_t>(header.crops) || labels.value.size() != values) {
            engine::input_error(file, " has ", labels.flips.size(), " crops and ", labels.value.size(),
                                " probabilities, the first one ", header.crops, " and ", values,
                                ": make the labels again");
        }
        writer.append(i, name, labels);
    }
    writer.finish();
    return count;
}

int64_t unpack_tree(const std::string& path, const std::string& root) {
    const PackedLabels packed = PackedLabels::open(path);
    const SoftLabelHeader& header = packed.header();
    PictureLabels labels;
    for (int64_t i = 0; i < header.pictures; ++i) {
        const std::string name(packed.name(i));
        const fs::path relative(name);
        bool leads_out = name.empty() || relative.is_absolute();
        for (const fs::path& part : relative) leads_out = leads_out || part == "..";
        if (leads_out || name.find('\0') != std::string::npos) {
            engine::input_error("label file '", printable(path), "' names a picture '", printable(name),
                                "': make the labels again");
        }
        packed.read(i, labels);
        write_label_file(root + "/" + name + ".tar", header.type, header.classes, labels);
    }
    return header.pictures;
}

}  // namespace vvtq::data
