// Data sets of pictures in folders, one folder a class, as files or in shards.
#include "data/folder.h"

#include <algorithm>
#include <atomic>
#include <cctype>
#include <initializer_list>

#include "data/directories.h"
#include "data/shards.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

namespace fs = std::filesystem;

bool ends_with_any(std::string name, std::initializer_list<const char*> endings) {
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return std::any_of(endings.begin(), endings.end(),
                       [&](const char* each) { return name.ends_with(each); });
}

Listing listing_of(const ShardIndex& index) {
    Listing listing;
    listing.classes = index.classes;
    listing.files = index.files;
    for (const ShardRecord& record : index.records) {
        listing.labels.push_back(static_cast<int>(record.label));
        listing.sizes.push_back(record.size);
    }
    return listing;
}

class FolderDataset : public Dataset {
  public:
    /// The pictures of the listing are files below `root`; without names they lie in `shards`.
    FolderDataset(const fs::path& root, Listing listing, std::unique_ptr<const Shards> shards)
        : Dataset(root.string(), listing.classes, listing.labels),
          root_(root.string()),
          split_name_(root.filename().string()),
          listing_(std::move(listing)),
          shards_(std::move(shards)),
          decoded_(listing_.labels.size()) {}
    FolderDataset(const FolderDataset&) = delete;
    FolderDataset& operator=(const FolderDataset&) = delete;
    ~FolderDataset() override {
        for (auto& slot : decoded_) delete slot.load();
    }

    std::string id(int64_t index) const override {
        const auto& files = shards_ != nullptr ? shards_->index().files : listing_.files;
        return split_name_ + "/" + files.at(static_cast<size_t>(index));
    }

    void open(int64_t index, PictureReader& reader) const override {
        auto& slot = decoded_.at(static_cast<size_t>(index));
        const Image* kept = slot.load(std::memory_order_acquire);
        if (kept == nullptr) {
            if (shards_ != nullptr) {
                shards_->open(index, reader);
            } else {
                reader.open_file(root_ + "/" + listing_.files[static_cast<size_t>(index)]);
            }
            kept = keep(slot, reader);
        }
        if (kept != nullptr) reader.show(*kept);
    }

    uint64_t fingerprint() const override {
        return fingerprint_of(split_name_, shards_ != nullptr ? listing_of(shards_->index()) : listing_);
    }
    uint64_t origin_fingerprint() const override {
        return shards_ != nullptr ? shards_->index().origin : fingerprint();
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
    Listing listing_;
    std::unique_ptr<const Shards> shards_;
    mutable std::vector<std::atomic<const Image*>> decoded_;
    mutable std::atomic<int64_t> kept_bytes_{0};
};

}  // namespace

Listing list_pictures(const fs::path& root) {
    Listing listing;
    listing.classes = names_in(root.string()).directories;
    std::error_code ignored;
    if (fs::exists(root / ShardIndex::shard_name(0), ignored)) {
        engine::input_error("'", printable(root.string()), "' holds shards, but no ", kShardIndex,
                            ", which names their pictures: copy it too");
    }
    if (listing.classes.empty()) {
        engine::input_error("no class folders in '", printable(root.string()), "': ", kFolderLayout);
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

uint64_t fingerprint_of(const std::string& split_name, const Listing& listing) {
    Fnv fnv;
    fnv.add("folder");
    fnv.add(static_cast<uint64_t>(listing.files.size()));
    for (const std::string& each : listing.classes) fnv.add(each);
    for (size_t i = 0; i < listing.files.size(); ++i) {
        fnv.add(split_name + "/" + listing.files[i]);
        fnv.add(static_cast<uint64_t>(listing.labels[i]));
        fnv.add(listing.sizes[i]);
    }
    return fnv.value();
}

bool is_picture_name(const std::string& name) {
    return ends_with_any(name, {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm"});
}

std::unique_ptr<Dataset> open_folder(const std::string& kind, const std::string& dir, Split split) {
    if (dir.empty())
        engine::input_error("`data` is missing: name the directory of the ", printable(kind), " pictures");
    if (!is_directory(dir))
        engine::input_error("`data`: no directory '", printable(dir), "'; ", kFolderLayout);
    fs::path root = fs::path(dir) / "train";
    if (split == Split::evaluation) {
        root = fs::path(dir) / "val";
        if (!is_directory(root)) root = fs::path(dir) / "test";
    }
    if (!is_directory(root)) {
        engine::input_error("no ", split == Split::train ? "train" : "val or test", " folder in '",
                            printable(dir), "': ", kFolderLayout);
    }
    std::unique_ptr<const Shards> shards;
    if (Shards::at(root.string())) shards = std::make_unique<const Shards>(root.string());
    Listing listing = shards != nullptr ? listing_of(shards->index()) : list_pictures(root);
    if (shards != nullptr) listing.files = {};  // the index has them
    constexpr size_t kCifarClasses = 10;
    if (kind == "cifar10" && listing.classes.size() != kCifarClasses) {
        engine::input_error("'", printable(root.string()), "' has ", listing.classes.size(),
                            " class folders, CIFAR-10 has 10: check `data`, or use `dataset` folder");
    }
    return std::make_unique<FolderDataset>(root, std::move(listing), std::move(shards));
}

}  // namespace vvtq::data
