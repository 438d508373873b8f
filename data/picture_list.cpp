// Pictures that are named one by one, or by the folders they lie in.
#include <algorithm>
#include <filesystem>

#include "data/dataset.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

namespace fs = std::filesystem;

class PictureList : public Dataset {
  public:
    explicit PictureList(std::vector<std::string> files)
        : Dataset("pictures", {"unknown"}, std::vector<int>(files.size())), files_(std::move(files)) {}

    std::string id(int64_t index) const override { return files_.at(static_cast<size_t>(index)); }
    void open(int64_t index, PictureReader& reader) const override { reader.open_file(id(index)); }
    uint64_t fingerprint() const override {
        Fnv fnv;
        for (const std::string& file : files_) fnv.add(file);
        return fnv.value();
    }

  private:
    std::vector<std::string> files_;
};

/// The pictures below a folder, sorted; links to folders are not followed.
std::vector<std::string> pictures_below(const std::string& folder) {
    std::vector<std::string> files;
    std::error_code error;
    fs::recursive_directory_iterator entries(folder, error);
    for (; !error && entries != fs::recursive_directory_iterator(); entries.increment(error)) {
        std::error_code ignored;
        const std::string path = entries->path().string();
        if (is_picture_name(path) && !fs::is_directory(entries->status(ignored))) files.push_back(path);
    }
    if (error) {
        engine::input_error("cannot list '", printable(folder), "' (", error.message(),
                            "): check the path and its permissions");
    }
    if (files.empty()) {
        engine::input_error("no pictures in '", printable(folder),
                            "': name a folder with .jpg, .jpeg, .png, .bmp, .ppm or .pgm files");
    }
    std::sort(files.begin(), files.end());
    return files;
}

}  // namespace

std::unique_ptr<Dataset> open_pictures(const std::vector<std::string>& paths) {
    std::vector<std::string> files;
    for (const std::string& path : paths) {
        std::error_code ignored;
        if (is_directory(path)) {
            const std::vector<std::string> below = pictures_below(path);
            files.insert(files.end(), below.begin(), below.end());
        } else if (fs::exists(path, ignored)) {
            files.push_back(path);
        } else {
            engine::input_error("no file '", printable(path), "': name pictures, or folders of them");
        }
    }
    if (files.empty()) engine::input_error("no pictures: name some, or folders of them");
    return std::make_unique<PictureList>(std::move(files));
}

}  // namespace vvtq::data
