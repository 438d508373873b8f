// log: what a run tells: lines in the published form, a progress bar on a terminal, metrics.jsonl for
// programs.
#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <vector>

#include "apps/training/event_file.h"

namespace vvtq::apps {

/// Latest value and mean weighted by counts, printed as "Loss 6.9256e+00 (6.2340e+00)".
class Meter {
  public:
    /// `format` is printf's, of one double: "%6.3f".
    Meter(std::string name, std::string format) : name_(std::move(name)), format_(std::move(format)) {}

    void update(double value, double count = 1);
    /// Goes on where another meter of these sums was.
    void restore(double sum, double count) {
        sum_ = sum;
        count_ = count;
    }
    double latest() const { return latest_; }
    double sum() const { return sum_; }
    double mean() const { return count_ > 0 ? sum_ / count_ : 0.0; }
    std::string str() const;

  private:
    std::string name_;
    std::string format_;
    double latest_ = 0;
    double sum_ = 0;
    double count_ = 0;
};

/// "Epoch: [3][ 10/469]" with the batch number padded to the width of the count.
std::string batch_label(const std::string& prefix, int64_t batch, int64_t batches);

/// Seconds as "1:02:03" or "02:03".
std::string clock_text(double seconds);

/// Seconds since construction or the last call of `lap`.
class Stopwatch {
  public:
    double lap();
    double seconds() const;

  private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// A regular file to which whole lines, or records, are added.
class LineFile {
  public:
    LineFile() = default;
    LineFile(const LineFile&) = delete;
    LineFile& operator=(const LineFile&) = delete;
    ~LineFile();

    /// Throws Error(Fault::input) naming `field` where it cannot be written.
    void open(const std::string& path, const std::string& field = "log");
    bool is_open() const { return descriptor_ >= 0; }
    const std::string& path() const { return path_; }
    /// False, with errno, where the line could not be written; then nothing of it is.
    bool write(const std::string& line) { return append(line + "\n"); }
    /// The same of bytes.
    bool append(const std::string& bytes);

  private:
    std::string path_;
    int descriptor_ = -1;
};

/// Writes to standard output, to the log file, and to metrics.jsonl beside it; and to a file for TensorBoard.
/// The first two files are appended to. Where one of them cannot be written, this is told once on standard
/// error; further lines are tried in the files.
class RunLog {
  public:
    /// Writes no files until `open`.
    RunLog();
    explicit RunLog(const std::string& log_path) : RunLog() { open(log_path); }
    ~RunLog();
    RunLog(const RunLog&) = delete;
    RunLog& operator=(const RunLog&) = delete;

    /// From here on standard output gets nothing: another process writes it.
    void mute() { muted_ = true; }
    /// From here on lines go to the file `log_path` too. Throws Error(Fault::input) naming `log` where it
    /// cannot be written.
    void open(const std::string& log_path);
    /// Makes the files again where they were removed.
    void reopen();
    /// From here on figures go to a new file in the folder `dir` too, for TensorBoard, which forgets what
    /// earlier files there say of `first_step` and later ones. Throws Error(Fault::input) naming
    /// `tensorboard` where it cannot be written.
    void open_events(const std::string& dir, int64_t first_step);
    bool has_events() const { return events_.is_open(); }

    /// A line for people and parsers.
    void line(const std::string& text);
    /// A line of progress: on a terminal a bar with the time left stands in for it (the file gets the line).
    void progress(const std::string& text, const std::string& label, int64_t done, int64_t total,
                  double seconds_per_item);
    /// One object in metrics.jsonl. Numbers that are not finite become null. TensorBoard gets the figures of
    /// training and evaluation.
    void metrics(const nlohmann::json& object);
    /// Figures for TensorBoard alone.
    void events(int64_t step, const Summary& summary);

    bool on_terminal() const { return on_terminal_; }
    /// The files that lack lines, separated by ", "; empty where all is written.
    std::string incomplete() const;

  private:
    void clear_bar();
    void show(const std::string& text);
    void write(LineFile& file, const std::string& text);
    void append_events(const std::string& record);
    void tell_once(const std::string& what);

    bool on_terminal_;
    bool bar_shown_ = false, muted_ = false;
    LineFile file_, metrics_, events_;
    std::set<std::string> told_;  // what could not be written
};

}  // namespace vvtq::apps
