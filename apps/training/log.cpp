#include "apps/training/log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace fs = std::filesystem;
namespace {

std::string print(const char* format, double value) {
    char text[64];
    std::snprintf(text, sizeof text, format, value);
    return text;
}

constexpr const char* kStandardOutput = "standard output";

/// What TensorBoard gets of the objects in metrics.jsonl, by their kinds and the names of their figures.
struct Tag {
    const char *kind, *name, *tag;
};
constexpr Tag kTags[] = {
    {"train", "loss", "train/loss"},
    {"train", "reg", "train/regularizer"},
    {"train", "acc1", "train/top1"},
    {"train", "acc5", "train/top5"},
    {"train", "lr", "lr"},
    {"train", "lambda", "lambda"},
    {"train", "epoch", "epoch"},
    {"train", "img_s", "throughput/images_per_second"},
    {"train", "time", "throughput/seconds_per_step"},
    {"train", "data", "throughput/seconds_waiting_for_data"},
    {"eval", "loss", "val/loss"},
    {"eval", "acc1", "val/top1"},
    {"eval", "acc5", "val/top5"},
};

/// Seconds since 1970.
double now() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

void Meter::update(double value, double count) {
    latest_ = value;
    sum_ += value * count;
    count_ += count;
}

std::string Meter::str() const {
    return name_ + " " + print(format_.c_str(), latest_) + " (" + print(format_.c_str(), mean()) + ")";
}

std::string batch_label(const std::string& prefix, int64_t batch, int64_t batches) {
    const std::string total = std::to_string(batches);
    std::string now = std::to_string(batch);
    now.insert(0, total.size() - std::min(total.size(), now.size()), ' ');
    return prefix + "[" + now + "/" + total + "]";
}

std::string clock_text(double seconds) {
    const auto whole = static_cast<long>(std::isfinite(seconds) ? std::clamp(seconds, 0.0, 1e8) : 0.0);
    char text[32];
    if (whole >= 3600) {
        std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
    } else {
        std::snprintf(text, sizeof text, "%02ld:%02ld", whole / 60, whole % 60);
    }
    return text;
}

double Stopwatch::seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

double Stopwatch::lap() {
    const auto now = std::chrono::steady_clock::now();
    const double elapsed = std::chrono::duration<double>(now - start_).count();
    start_ = now;
    return elapsed;
}

LineFile::~LineFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

void LineFile::open(const std::string& path, const std::string& field) {
    if (descriptor_ >= 0) ::close(descriptor_);
    path_ = path;
    descriptor_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0666);
    struct stat status {};
    if (descriptor_ >= 0 && ::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode)) return;
    engine::input_error("`", field, "`: cannot write ", path, " (",
                        descriptor_ < 0 ? std::strerror(errno) : "no regular file",
                        "); name a file in a folder you may write to");
}

bool LineFile::append(const std::string& whole) {
    const off_t before = ::lseek(descriptor_, 0, SEEK_END);
    if (data::write_all(descriptor_, whole.data(), whole.size())) return true;
    const int reason = errno;
    if (before < 0 || ::ftruncate(descriptor_, before) != 0) return false;
    errno = reason;
    return false;
}

RunLog::RunLog() : on_terminal_(isatty(STDOUT_FILENO) == 1) {}

void RunLog::open(const std::string& log_path) {
    const fs::path path(log_path);
    std::error_code ignored;  // an impossible folder shows when the file is opened
    if (path.has_parent_path()) fs::create_directories(path.parent_path(), ignored);
    file_.open(path.string());
    metrics_.open((path.parent_path() / "metrics.jsonl").string());
}

void RunLog::reopen() {
    std::error_code ignored;
    if (file_.is_open() && !(fs::exists(file_.path(), ignored) && fs::exists(metrics_.path(), ignored))) {
        open(file_.path());
    }
    if (events_.is_open() && !fs::exists(events_.path(), ignored)) {
        fs::create_directories(fs::path(events_.path()).parent_path(), ignored);
        events_.open(events_.path(), "tensorboard");
        append_events(version_record(now()));
    }
}

void RunLog::open_events(const std::string& dir, int64_t first_step) {
    std::error_code ignored;  // an impossible folder shows when the file is opened
    fs::create_directories(dir, ignored);
    const double seconds = now();
    events_.open((fs::path(dir) / event_file_name(seconds)).string(), "tensorboard");
    append_events(version_record(seconds));
    append_events(restart_record(seconds, first_step));
}

RunLog::~RunLog() { clear_bar(); }

void RunLog::clear_bar() {
    if (bar_shown_) {
        std::cout << "\r\033[K" << std::flush;
        bar_shown_ = false;
    }
}

void RunLog::tell_once(const std::string& what) {
    const int reason = errno;
    if (!told_.insert(what).second) return;
    std::cerr << "vvtq: warning: cannot write " << what << " (" << std::strerror(reason)
              << "): the command goes on, and lines are missing there" << std::endl;
}

void RunLog::show(const std::string& text) {
    if (muted_ || !std::cout) return;  // main says so at the end, too
    std::cout << text << std::flush;
    if (!std::cout) tell_once(kStandardOutput);
}

void RunLog::write(LineFile& file, const std::string& text) {
    if (file.is_open() && !file.write(text)) tell_once(file.path());
}

std::string RunLog::incomplete() const {
    std::string files;
    for (const std::string& what : told_) {
        if (what != kStandardOutput) files += (files.empty() ? "" : ", ") + what;
    }
    return files;
}

void RunLog::line(const std::string& text) {
    clear_bar();
    show(text + "\n");
    write(file_, text);
}

void RunLog::progress(const std::string& text, const std::string& label, int64_t done, int64_t total,
                      double seconds_per_item) {
    if (!on_terminal_) {
        line(text);
        return;
    }
    write(file_, text);
    constexpr int64_t kWidth = 24;
    const int64_t filled = total > 0 ? kWidth * done / total : kWidth;
    std::string bar(static_cast<size_t>(kWidth), '.');
    std::fill_n(bar.begin(), std::clamp<int64_t>(filled, 0, kWidth), '#');
    show("\r\033[K" + label + " |" + bar + "| " + std::to_string(done) + "/" + std::to_string(total) + "  " +
         clock_text(seconds_per_item * static_cast<double>(total - done)) + " left");
    bar_shown_ = true;
}

void RunLog::metrics(const nlohmann::json& object) {
    write(metrics_, object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    if (!has_events()) return;
    Summary summary;
    for (const auto& [kind, name, tag] : kTags) {
        if (object.value("kind", "") == kind && object.contains(name)) summary.scalar(tag, object[name]);
    }
    if (!summary.empty()) events(object.at("step"), summary);
}

void RunLog::append_events(const std::string& record) {
    if (!events_.append(record)) tell_once(events_.path());
}

void RunLog::events(int64_t step, const Summary& summary) {
    if (has_events()) append_events(summary_record(now(), step, summary));
}

}  // namespace vvtq::apps
