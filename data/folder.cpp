// Data sets of pictures in folders, one folder a class.
#include <algorithm>
#include <atomic>
#include <cctype>
#include <filesystem>
#include <initializer_list>

#include "data/dataset.h"
#include "data/directories.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLayout = "folders hold train/<class>/<picture>, and val/ or test/ likewise";

bool ends_with_any(std::string name, std::initializer_list<const char*> endings) {
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return std::any_of(endings.begin(), endings.end(),
                       [&](const char* each) { return name.ends_with(each); });
}

struct Listing {
    std::vector<std::string> classes;
    std::vector<std::string> files;  // "<class>/<picture>"
    std::vector<int> labels;
    std::vector<uint64_t> sizes;  // of the files, in bytes
};

// As torchvision's ImageFolder: every directory is a class, its pictures are found at any depth and through
// links, directories and then names sorted by their bytes, and told by the end of the name alone. Unlike
// there, a directory that several links of a class lead to counts once.
Listing list_pictures(const fs::path& root) {
    Listing listing;
    listing.classes = names_in(root.string()).directories;
    if (listing.classes.empty()) {
        engine::input_error("no class folders in '", printable(root.string()), "': ", kLayout);
    }
    for (size_t c = 0; c < listing.classes.size(); ++c) {
        const size_t before = listing.files.size();
        for (const std::string& directory : directories_below(root.string(), listing.classes[c])) {
            for (const std::string& name : names_in((root / directory).string()).others) {
                const std::string file = directory + "/" + name;
                if (ends_with_any(name, {".tif", ".tiff", ".webp"})) {
                    engine::input_error(
                        "'", printable((root / file).string()),
                        "' is of a type that is not read here: convert it to PNG, or remove it");
                }
                if (!is_picture_name(name)) continue;
                listing.files.push_back(file);
                listing.labels.push_back(static_cast<int>(c));
                std::error_code unreadable;  // a picture that cannot be read is reported when it is used
                listing.sizes.push_back(fs::file_size(root / file, unreadable));
            }
        }
        if (listing.files.size() == before) {
            engine::input_error(
                "no pictures in '", printable((root / listing.classes[c]).string()),
                "': fill the folder with .jpg, .jpeg, .png, .bmp, .ppm or .pgm files, or remove it");
        }
    }
    return listing;
}

class FolderDataset : public Dataset {
  public:
    FolderDataset(const fs::path& root, Listing listing)
        : Dataset(root.string(), std::move(listing.classes), std::move(listing.labels)),
          root_(root.string()),
          split_name_(root.filename().string()),
          files_(std::move(listing.files)),
          sizes_(std::move(listing.sizes)),
          decoded_(files_.size()) {}
    FolderDataset(const FolderDataset&) = delete;
    FolderDataset& operator=(const FolderDataset&) = delete;
    ~FolderDataset() override {
        for (auto& slot : decoded_) delete slot.load();
    }

    std::string id(int64_t index) const override {
        return split_name_ + "/" + files_.at(static_cast<size_t>(index));
    }

    void open(int64_t index, PictureReader& reader) const override {
        auto& slot = decoded_.at(static_cast<size_t>(index));
        const Image* kept = slot.load(std::memory_order_acquire);
        if (kept == nullptr) {
            reader.open_file(root_ + "/" + files_[static_cast<size_t>(index)]);
            kept = keep(slot, reader);
        }
        if (kept != nullptr) reader.show(*kept);
    }

    uint64_t fingerprint() const override {
        Fnv fnv;
        fnv.add("folder");
        fnv.add(static_cast<uint64_t>(size()));
        for (const std::string& each : class_names()) fnv.add(each);
        for (int64_t i = 0; i < size(); ++i) {
            fnv.add(id(i));
            fnv.add(static_cast<uint64_t>(label(i)));
            fnv.add(sizes_[static_cast<size_t>(i)]);
        }
        return fnv.value();
    }

  private:
    // Small pictures stay in memory after their first use, up to a budget. Null where this one does not.
    const Image* keep(std::atomic<const Image*>& slot, PictureReader& reader) const {
        constexpr int kLongestSide = 64;
        constexpr int64_t kBudget = int64_t{1} << 30;
        if (reader.height() > kLongestSide || reader.width() > kLongestSide) return nullptr;
        const auto bytes =
            static_cast<int64_t>(sizeof(Image)) + int64_t{3} * reader.height() * reader.width();
        if (kept_bytes_.fetch_add(bytes, std::memory_order_relaxed) + bytes > kBudget) return nullptr;
        auto image = std::make_unique<const Image>(reader.whole());
        const Image* expected = nullptr;
        const bool first = slot.compare_exchange_strong(expected, image.get(), std::memory_order_acq_rel);
        return first ? image.release() : expected;
    }

    std::string root_;
    std::string split_name_;
    std::vector<std::string> files_;
    std::vector<uint64_t> sizes_;
    mutable std::vector<std::atomic<const Image*>> decoded_;
    mutable std::atomic<int64_t> kept_bytes_{0};
};

}  // namespace

bool is_picture_name(const std::string& name) {
    return ends_with_any(name, {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm"});
}

std::unique_ptr<Dataset> open_folder(const std::string& kind, const std::string& dir, Split split) {
    if (dir.empty())
        engine::input_error("`data` is missing: name the directory of the ", printable(kind), " pictures");
    if (!is_directory(dir)) engine::input_error("`data`: no directory '", printable(dir), "'; ", kLayout);
    fs::path root = fs::path(dir) / "train";
    if (split == Split::evaluation) {
        root = fs::path(dir) / "val";
        if (!is_directory(root)) root = fs::path(dir) / "test";
    }
    if (!is_directory(root)) {
        engine::input_error("no ", split == Split::train ? "train" : "val or test", " folder in '",
                            printable(dir), "': ", kLayout);
    }
    Listing listing = list_pictures(root);
    constexpr size_t kCifarClasses = 10;
    if (kind == "cifar10" && listing.classes.size() != kCifarClasses) {
        engine::input_error("'", printable(root.string()), "' has ", listing.classes.size(),
                            " class folders, CIFAR-10 has 10: check `data`, or use `dataset` folder");
    }
    return std::make_unique<FolderDataset>(root, std::move(listing));
}

}  // namespace vvtq::data
