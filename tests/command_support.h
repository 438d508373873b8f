// command_support: runs the built program on small data of its own.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

#include "data/bytes.h"

namespace vvtq::tests {

/// How a program ended and what it printed.
struct Ended {
    int status = -1;  // exit status; 1000 + signal where one killed it
    std::string out;
    std::string err;
};

/// The program in the background; killed where it still runs at the end.
class Running {
  public:
    /// `arguments` are separated by spaces; `scratch` takes the files its output goes to.
    Running(const std::string& arguments, const std::string& scratch);
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;
    ~Running();

    /// Polls standard output until it holds `text`; false where the program ended or a minute passed before.
    bool wait_for(const std::string& text);
    /// The same of any condition.
    bool wait_until(const std::function<bool()>& holds);
    void signal(int number) const;
    /// Stops it until SIGCONT; returns when it stands still or has ended.
    void stop() const;
    pid_t pid() const { return pid_; }
    std::string err() const;
    bool ended();
    Ended wait();

  private:
    pid_t pid_ = -1;
    int raw_status_ = 0;
    bool done_ = false;
    std::string out_, err_;
};

/// Runs the program to its end.
Ended run_vvtq(const std::string& arguments, const std::string& scratch);

/// Runs a line of the shell in which $VVTQ is the program; `scratch` as above.
Ended run_shell(const std::string& command, const std::string& scratch);

/// A file system in memory of `size` ("1m") on the new folder `dir`, gone at the end.
class MemoryDisk {
  public:
    MemoryDisk(const std::string& dir, const std::string& size);
    MemoryDisk(const MemoryDisk&) = delete;
    MemoryDisk& operator=(const MemoryDisk&) = delete;
    ~MemoryDisk();

    /// False, with a warning of the test, where this process may not mount.
    bool mounted() const { return mounted_; }
    void make_read_only();
    /// A file that takes all room but `left` bytes.
    void fill(size_t left = 0) const;
    void free() const;

  private:
    std::string dir_;
    bool mounted_;
};

/// idx files of a Fashion-MNIST with few pictures: bars whose place tells the class, with noise.
void write_idx_dataset(const std::string& dir, int train, int evaluation);

/// A folder data set of 8 x 8 BMP pictures: train/ and val/ with `classes` folders of `pictures` each.
void write_folder_dataset(const std::string& dir, int classes, int pictures);

/// Flags of a short run on the idx files, begun and ended by a space; the model is the published nano.
std::string tiny_flags(const std::string& data_dir, const std::string& save_dir);

std::string text_of(const std::string& path);
data::Bytes bytes_of(const std::string& path);

}  // namespace vvtq::tests
