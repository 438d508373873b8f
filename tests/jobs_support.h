// jobs_support: runs of several processes of the program, how they end and what is left of them.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/command_support.h"
#include "tests/unit/data_support.h"

namespace vvtq::tests {

/// A command that was started in the background with an own folder for its output; killed with all that it
/// started where it still runs at the end.
class JobRun {
  public:
    /// `variables`: NAME=VALUE, for this command alone.
    JobRun(const std::string& scratch, const std::string& arguments,
           const std::vector<std::string>& variables = {});
    JobRun(const JobRun&) = delete;
    JobRun& operator=(const JobRun&) = delete;
    ~JobRun();

    Running& running() { return *running_; }
    /// The processes that it started, in this order: rank by rank.
    std::vector<pid_t> ranks() const;
    /// Waits until `count` of them are there.
    std::vector<pid_t> wait_for_ranks(size_t count);
    /// Waits until it and all that it started have ended; CHECKs that this takes less than `seconds` from now
    /// on and that no process is left.
    Ended ends_within(double seconds);
    /// What the latest ends_within took.
    double seconds() const { return seconds_; }

  private:
    std::vector<pid_t> left() const;

    std::string folder_;
    std::unique_ptr<Running> running_;
    double seconds_ = 0;
};

/// A data set of 4 batches of 12 and 17 pictures for evaluation, which no number of processes divides.
struct Jobs {
    Scratch scratch;
    std::string data = scratch / "data";

    Jobs() { write_idx_dataset(data, 48, 17); }

    /// Data and folder of a run, for any model of 16 x 16 pixels; begins and ends with a space.
    std::string run(const std::string& name, int batch = 12) const;
    /// A quantized model of a few steps a second.
    std::string train(const std::string& name, const std::string& more = "", int batch = 12) const;
    std::string pretrain(const std::string& name, const std::string& more = "") const;
    /// Labels of 6 crops of each picture.
    void make_labels() const;
    /// Flags that train on them.
    std::string with_labels(int crops) const;

    /// Runs a command to its end, which must be good; gives its output.
    std::string done(const std::string& arguments) const;
    JobRun start(const std::string& arguments, const std::vector<std::string>& variables = {}) const {
        return JobRun(scratch.path(), arguments, variables);
    }
    std::string file(const std::string& name, const std::string& of = "checkpoint") const {
        return scratch / (name + "/" + of + ".safetensors");
    }
    /// CHECKs that both runs left the same checkpoint.safetensors and model_best.safetensors.
    void same_files(const std::string& one, const std::string& other) const;
    void copy(const std::string& from, const std::string& to) const;
};

inline constexpr const char* kDeit =
    "--model deit_nano_patch4_28 --patch-size 4 --embed-dim 12 --depth 2 --num-heads 3 ";
inline constexpr const char* kSwin =
    "--model swin_tiny_patch4_window7_224 --patch-size 2 --embed-dim 8 --depths 2 2 --num-heads 1 2 "
    "--window-size 4 ";
inline constexpr const char* kSret =
    "--model SReT_T --patch-size 2 --embed-dim 8 --depths 2 2 --num-heads 1 2 ";

/// Flags that start `count` processes; none for one.
std::string processes(int count, double timeout = 30);

/// Steps of a checkpoint; 0 where there is none. Throws where it is not whole.
int64_t steps_of(const std::string& path);
/// Files in `folder` that are being written or were when their writer died.
size_t half_written(const std::string& folder);
/// Whether a command with these words in its message ended the job: status, one line, and each word in it.
void check_end(const Ended& ended, int status, const std::vector<std::string>& words);

int free_tcp_port();
/// Whether a program may listen there.
bool is_free(int port);
/// Within two seconds: the last of killed processes ends soon after the one that is waited for.
bool becomes_free(int port);

}  // namespace vvtq::tests
