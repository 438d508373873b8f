#include "apps/training/log.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "engine/check.h"

namespace vvtq::apps {
namespace fs = std::filesystem;
namespace {

std::string print(const char* format, double value) {
    char text[64];
    std::snprintf(text, sizeof text, format, value);
    return text;
}

std::ofstream open_for_append(const fs::path& path) {
    std::ofstream out(path, std::ios::app);
    if (!out) {
        engine::input_error("`log`: cannot write ", path.string(),
                            "; name a file in a folder you may write to");
    }
    return out;
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

RunLog::RunLog() : on_terminal_(isatty(STDOUT_FILENO) == 1) {}

void RunLog::open(const std::string& log_path) {
    const fs::path path(log_path);
    std::error_code ignored;  // an impossible folder shows when the file is opened
    if (path.has_parent_path()) fs::create_directories(path.parent_path(), ignored);
    file_ = open_for_append(path);
    metrics_ = open_for_append(path.parent_path() / "metrics.jsonl");
}

RunLog::~RunLog() { clear_bar(); }

void RunLog::clear_bar() {
    if (bar_shown_) {
        std::cout << "\r\033[K" << std::flush;
        bar_shown_ = false;
    }
}

void RunLog::line(const std::string& text) {
    clear_bar();
    std::cout << text << std::endl;
    if (file_.is_open()) file_ << text << std::endl;
}

void RunLog::progress(const std::string& text, const std::string& label, int64_t done, int64_t total,
                      double seconds_per_item) {
    if (!on_terminal_) {
        line(text);
        return;
    }
    if (file_.is_open()) file_ << text << std::endl;
    constexpr int64_t kWidth = 24;
    const int64_t filled = total > 0 ? kWidth * done / total : kWidth;
    std::string bar(static_cast<size_t>(kWidth), '.');
    std::fill_n(bar.begin(), std::clamp<int64_t>(filled, 0, kWidth), '#');
    std::cout << "\r\033[K" << label << " |" << bar << "| " << done << "/" << total << "  "
              << clock_text(seconds_per_item * static_cast<double>(total - done)) << " left" << std::flush;
    bar_shown_ = true;
}

void RunLog::metrics(const nlohmann::json& object) {
    if (metrics_.is_open()) {
        metrics_ << object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
    }
}

}  // namespace vvtq::apps
