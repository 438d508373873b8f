// Pictures that are named one by one, or by the folders they lie in.
#include <algorithm>
#include <filesystem>

#include "data/dataset.h"
#include "data/shards.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

namespace fs = std::filesystem;

// A picture: a file, or a number in shards.
struct Item {
    std::string name;
    std::shared_ptr<const Shards> shards;
    int64_t number = 0;
};

class PictureList : public Dataset {
  public:
    explicit PictureList(std::vector<Item> items)
        : Dataset("pictures", {"unknown"}, std::vector<int>(items.size())), items_(std::move(items)) {}

    std::string id(int64_t index) const override { return items_.at(static_cast<size_t>(index)).name; }
    void open(int64_t index, PictureReader& reader) const override {
        const Item& item = items_.at(static_cast<size_t>(index));
        if (item.shards != nullptr) {
            item.shards->open(item.number, reader);
        } else {
            reader.open_file(item.name);
        }
    }
    uint64_t fingerprint() const override {
        Fnv fnv;
        for (const Item& item : items_) fnv.add(item.name);
        return fnv.value();
    }

  private:
    std::vector<Item> items_;
};

/// The pictures below a folder, sorted, those of its shards by the names they had; links to folders are not
/// followed.
std::vector<Item> pictures_below(const std::string& folder) {
    std::vector<Item> items;
    std::error_code error;
    fs::recursive_directory_iterator entries(folder, error);
    for (; !error && entries != fs::recursive_directory_iterator(); entries.increment(error)) {
        std::error_code ignored;
        const std::string path = entries->path().string();
        if (entries->path().filename() == kShardIndex) {
            const std::string parent = entries->path().parent_path().string();
            const auto shards = std::make_shared<const Shards>(parent);
            for (const std::string& file : shards->index().files) {
                items.push_back({parent + "/" + file, shards, &file - shards->index().files.data()});
            }
        } else if (is_picture_name(path) && !fs::is_directory(entries->status(ignored))) {
            items.push_back({path, nullptr});
        }
    }
    if (error) {
        engine::input_error("cannot list '", printable(folder), "' (", error.message(),
                            "): check the path and its permissions");
    }
    if (items.empty()) {
        engine::input_error("no pictures in '", printable(folder),
                            "': name a folder with .jpg, .jpeg, .png, .bmp, .ppm or .pgm files");
    }
    std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.name < b.name; });
    return items;
}

}  // namespace

std::unique_ptr<Dataset> open_pictures(const std::vector<std::string>& paths) {
    std::vector<Item> items;
    for (const std::string& path : paths) {
        std::error_code ignored;
        if (is_directory(path)) {
            const std::vector<Item> below = pictures_below(path);
            items.insert(items.end(), below.begin(), below.end());
        } else if (fs::exists(path, ignored)) {
            items.push_back({path, nullptr});
        } else {
            engine::input_error("no file '", printable(path), "': name pictures, or folders of them");
        }
    }
    if (items.empty()) engine::input_error("no pictures: name some, or folders of them");
    return std::make_unique<PictureList>(std::move(items));
}

}  // namespace vvtq::data
