#include "data/directories.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::data {

namespace fs = std::filesystem;

Names names_in(const std::string& directory) {
    Names names;
    std::error_code error, ignored;
    fs::directory_iterator entries(directory, error);
    for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
        auto& list = entries->is_directory(ignored) ? names.directories : names.others;
        list.push_back(entries->path().filename().string());
    }
    if (error) {
        engine::input_error("cannot list '", printable(directory), "' (", error.message(),
                            "): check the path and its permissions");
    }
    std::sort(names.directories.begin(), names.directories.end());
    std::sort(names.others.begin(), names.others.end());
    return names;
}

std::vector<std::string> directories_below(const std::string& root, const std::string& start) {
    std::set<std::pair<dev_t, ino_t>> seen;
    const auto is_new = [&](const std::string& path) {
        struct stat status {};
        return ::stat(path.c_str(), &status) == 0 && seen.emplace(status.st_dev, status.st_ino).second;
    };
    const auto below = [](const std::string& parent, const std::string& name) {
        return parent.empty() ? name : name.empty() ? parent : parent + "/" + name;
    };
    if (!start.empty()) is_new(root);  // no link leads back to it
    std::vector<std::string> found, links{start};
    for (size_t next = 0; next < links.size(); ++next) {  // directories first, links after them
        std::vector<std::string> directories{links[next]};
        while (!directories.empty()) {
            const std::string parent = std::move(directories.back());
            directories.pop_back();
            if (!is_new(below(root, parent))) continue;
            found.push_back(parent);
            for (const std::string& name : names_in(below(root, parent)).directories) {
                const std::string path = below(parent, name);
                std::error_code ignored;
                (fs::is_symlink(below(root, path), ignored) ? links : directories).push_back(path);
            }
        }
    }
    std::sort(found.begin(), found.end());
    return found;
}

}  // namespace vvtq::data
