#include "data/label_sink.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/fkd_labels.h"
#include "data/label_tree.h"
#include "data/packed_labels.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

class PackedSink : public LabelSink {
  public:
    PackedSink(const std::string& path, const SoftLabelHeader& header, const Dataset& dataset)
        : dataset_(dataset), writer_(path, header) {}
    Resumed resume(const Stop& stop) override { return writer_.resume(dataset_, stop); }
    void append(int64_t picture, const PictureLabels& labels) override {
        writer_.append(picture, label_name(dataset_, picture), labels);
    }
    void finish() override { writer_.finish(); }

  private:
    const Dataset& dataset_;
    PackedLabelWriter writer_;
};

std::string origin_of(const SoftLabelHeader& header) {
    require_label_fits(header.type, header.classes);
    return nlohmann::ordered_json({{"type", label_type_name(header.type)},
                                   {"crops", header.crops},
                                   {"classes", header.classes},
                                   {"dataset", header.fingerprint},
                                   {"seed", header.seed},
                                   {"settings", header.settings}})
        .dump();
}

class TreeSink : public LabelSink {
  public:
    TreeSink(const std::string& root, const SoftLabelHeader& header, const Dataset& dataset)
        : header_(header), dataset_(dataset), tree_(root, origin_of(header)) {}

    Resumed resume(const Stop& stop) override {
        Resumed resumed;
        std::error_code ignored;
        for (; resumed.next < dataset_.size(); ++resumed.next) {
            const std::string path = tree_.file(label_name(dataset_, resumed.next));
            if (!std::filesystem::exists(path, ignored)) break;
            resumed.stopped = stop();
            if (resumed.stopped) break;
            try {
                check(path);
            } catch (const engine::Error& error) {
                if (error.fault() != engine::Fault::input) throw;
                resumed.note = engine::concat("=> warning: labels are made again from '", printable(path),
                                              "' on: ", error.what());
                break;
            }
        }
        return resumed;
    }
    void append(int64_t picture, const PictureLabels& labels) override {
        tree_.write(label_name(dataset_, picture), header_.type, header_.classes, labels);
    }
    void finish() override { tree_.flush(); }

  private:
    // Throws where the file does not hold labels as this sink writes them.
    void check(const std::string& path) {
        read_file(path, "remove it", labels_.file);
        parse_fkd(labels_.file, path, header_.type, labels_);
        const size_t values =
            labels_.flips.size() * static_cast<size_t>(label_values(header_.type, header_.classes));
        if (labels_.flips.size() != static_cast<size_t>(header_.crops) || labels_.value.size() != values) {
            engine::input_error("it has ", labels_.flips.size(), " crops and ", labels_.value.size(),
                                " probabilities, not ", header_.crops, " and ", values);
        }
        for (int m = 0; m < header_.crops; ++m) {
            checked_crop(header_.type, header_.classes, labels_, m, [&] { return path; });
        }
    }

    SoftLabelHeader header_;
    const Dataset& dataset_;
    LabelTree tree_;
    PictureLabels labels_;
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

}  // namespace vvtq::data
