#include "data/label_tree.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "data/fkd_labels.h"
#include "engine/check.h"

namespace vvtq::data {

namespace fs = std::filesystem;

LabelTree::LabelTree(const std::string& root, const std::string& origin) : root_(root) {
    std::error_code error;
    fs::create_directories(root, error);
    if (error || !is_directory(root)) {
        engine::input_error("cannot make the folder '", printable(root),
                            "': name one in a directory that exists and is writable");
    }
    lock_ = std::make_unique<FolderLock>(root);
    const std::string text = origin + "\n";
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

void LabelTree::write(const std::string& name, LabelType type, int classes, const PictureLabels& labels) {
    const std::string path = file(name);
    const Bytes bytes = write_fkd(type, classes, labels, fs::path(path).stem().string());
    std::error_code ignored;  // told of by the file that cannot be made then
    fs::create_directories(fs::path(path).parent_path(), ignored);
    AtomicFile file(path);
    file.write(bytes.data(), bytes.size());
    file.commit(false);
}

// One call for a million files: to flush each of them by itself takes milliseconds, on an SSD too. What the
// power takes before is noticed when the run goes on.
void LabelTree::flush() {
    if (::syncfs(lock_->descriptor()) != 0) {
        engine::run_error("cannot flush '", printable(root_), "' (", std::strerror(errno),
                          "): free some space or choose another directory");
    }
}

}  // namespace vvtq::data
