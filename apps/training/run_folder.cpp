#include "apps/training/run_folder.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <regex>

#include "apps/training/value_text.h"
#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace fs = std::filesystem;
namespace {

constexpr const char* kLock = ".lock";

std::string numbered(int64_t step) {
    char name[64];
    std::snprintf(name, sizeof name, "checkpoint-%07lld.safetensors", static_cast<long long>(step));
    return name;
}

/// The steps of the numbered checkpoints, latest first.
std::vector<int64_t> numbered_steps(const std::string& dir) {
    static const std::regex pattern("checkpoint-([0-9]{7,18})\\.safetensors");
    std::vector<int64_t> steps;
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator(dir, ignored)) {
        std::smatch match;
        const std::string name = entry.path().filename().string();
        int64_t step = 0;
        if (!std::regex_match(name, match, pattern)) continue;
        if (parse_text(match[1].str(), step) && numbered(step) == name) steps.push_back(step);
    }
    std::sort(steps.rbegin(), steps.rend());
    return steps;
}

/// Only of our own names; whoever has the folder's lock knows that no run is writing them.
void remove_half_written(const std::string& dir) {
    static const std::regex pattern(
        "(checkpoint(-[0-9]+)?|model_best)\\.safetensors\\.[0-9]+\\.[0-9]+\\.tmp");
    std::error_code ignored;
    std::vector<fs::path> left;
    for (const fs::directory_entry& entry : fs::directory_iterator(dir, ignored)) {
        if (std::regex_match(entry.path().filename().string(), pattern)) left.push_back(entry.path());
    }
    for (const fs::path& path : left) fs::remove(path, ignored);
}

/// Replaces `to` by a copy of `from`, complete or not at all.
void copy_file(const std::string& from, const std::string& to) {
    const data::MappedFile source(from, "name the folder that the run was in");
    data::AtomicFile target(to);
    target.write(source.bytes().data(), source.bytes().size());
    target.commit();
}

}  // namespace

std::string path_in(const std::string& dir, const std::string& file) {
    return (fs::path(dir) / file).string();
}

bool RunFolder::exists() const { return data::is_directory(dir_); }

bool RunFolder::take() {
    if (!exists()) {
        std::error_code error;
        fs::create_directories(dir_, error);
        if (error || !exists()) {
            engine::input_error("`save_checkpoint_path`: cannot make the folder ", dir_,
                                "; name one you may write to");
        }
        data::flush_directory(fs::path(dir_).parent_path().string());
    }
    const std::string path = path_in(dir_, kLock);
    if (lock_ != nullptr && lock_->is_at(path)) return false;
    // That the folder is there proves nothing: the log makes it, too, when it is opened again.
    std::error_code ignored;
    const bool had_gone = lock_ != nullptr && !fs::exists(path_in(dir_, kCheckpoint), ignored);
    lock_ = std::make_unique<data::FileLock>(path, "the run folder " + dir_);
    remove_half_written(dir_);
    return had_gone;
}

void RunFolder::try_out(size_t bytes) {
    take();
    try {
        data::AtomicFile checkpoint(path_in(dir_, kCheckpoint)), best(path_in(dir_, kBestCheckpoint));
        checkpoint.reserve(bytes);
        best.reserve(bytes);
    } catch (const engine::Error& error) {
        engine::input_error("`save_checkpoint_path`: ", error.what());
    }
}

bool RunFolder::save(const std::string& file, const CheckpointInfo& info, const nn::Model& model,
                     const nn::Adamw& optimizer, const quant::OscillationTracker* oscillation, bool afresh) {
    const bool had_gone = take();
    save_checkpoint(path_in(dir_, file), info, model, optimizer, oscillation);
    if (afresh) {  // what an earlier run left stays until the new one has left something
        std::error_code ignored;
        if (file != kBestCheckpoint) fs::remove(path_in(dir_, kBestCheckpoint), ignored);
        remove_numbered(-1, 0);
    }
    if (file == kCheckpoint && keep_ > 1) number(info.step);
    return had_gone;
}

void RunFolder::number(int64_t step) {
    std::error_code error;
    const std::string from = fs::canonical(path_in(dir_, kCheckpoint), error).string();
    const std::string to = path_in(dir_, numbered(step));
    fs::remove(to, error);
    fs::create_hard_link(from, to, error);
    if (error) copy_file(from, to);
    remove_numbered(step, keep_);
    data::flush_directory(dir_);
}

// Those of later steps too: the run that made them was given up for an earlier state.
void RunFolder::remove_numbered(int64_t last, int kept) {
    for (const int64_t step : numbered_steps(dir_)) {
        if (step <= last && kept-- > 0) continue;
        std::error_code ignored;
        fs::remove(path_in(dir_, numbered(step)), ignored);
    }
}

void RunFolder::bring_best(const std::string& from) { copy_file(from, path_in(dir_, kBestCheckpoint)); }

void open_newest(const std::string& dir, const std::string& flag, std::optional<Checkpoint>& newest,
                 std::vector<std::string>& notes) {
    std::vector<std::string> names{kCheckpoint};
    for (const int64_t step : numbered_steps(dir)) names.push_back(numbered(step));
    names.emplace_back(kBestCheckpoint);
    const auto step_of = [](const Checkpoint& checkpoint) {
        return checkpoint.info() ? checkpoint.info()->step : -1;
    };
    std::string damaged;
    for (const std::string& name : names) {
        if (newest && name != kBestCheckpoint) continue;  // the others are older
        std::error_code ignored;
        const std::string path = path_in(dir, name);
        if (fs::symlink_status(path, ignored).type() == fs::file_type::not_found) continue;
        try {
            const int64_t before = newest ? step_of(*newest) : -1;
            if (before < 0 || step_of(Checkpoint(path, flag)) > before) newest.emplace(path, flag);
            if (name == kCheckpoint) return;
        } catch (const engine::Error& error) {
            if (error.fault() != engine::Fault::input) throw;
            notes.push_back(engine::concat("=> warning: ", path, " is passed over: ", error.what()));
            if (damaged.empty()) damaged = error.what();
        }
    }
    if (newest || damaged.empty()) return;
    engine::input_error(flag, ": no checkpoint in ", dir, " is whole (", damaged,
                        "); remove them to start afresh, or name another folder");
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

}  // namespace vvtq::apps
