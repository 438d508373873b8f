#include "apps/training/run_folder.h"

#include <filesystem>

#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace fs = std::filesystem;

std::string path_in(const std::string& dir, const std::string& file) {
    return (fs::path(dir) / file).string();
}

void make_folder(const std::string& dir) {
    std::error_code error;
    fs::create_directories(dir, error);
    if (error || !fs::is_directory(dir)) {
        engine::input_error("`save_checkpoint_path`: cannot make the folder ", dir,
                            "; name one you may write to");
    }
}

std::string best_to_bring_along(const Checkpoint& resumed, const std::string& dir,
                                std::vector<std::string>& notes) {
    const fs::path from = fs::absolute(resumed.path()).parent_path();
    const double accuracy = resumed.info()->best_acc1;
    std::error_code missing;
    if (accuracy < 0 || fs::equivalent(from, dir, missing)) return "";
    const std::string best = (from / kBestCheckpoint).string();
    if (fs::exists(best, missing)) {
        const Checkpoint checkpoint(best, "`resume`");
        if (checkpoint.info() && checkpoint.info()->best_acc1 == accuracy) return best;
    }
    notes.push_back("=> the best model so far does not lie beside " + resumed.path() + ": " +
                    kBestCheckpoint + " is written once an epoch is better");
    return "";
}

void copy_file(const std::string& from, const std::string& to) {
    const data::MappedFile source(from, "name the folder that the run was in");
    data::AtomicFile target(to);
    target.write(source.bytes().data(), source.bytes().size());
    target.commit();
}

}  // namespace vvtq::apps
