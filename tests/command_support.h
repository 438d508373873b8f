// command_support: runs the built program on small data of its own.
#pragma once

#include <sys/types.h>

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
    void signal(int number) const;
    Ended wait();

  private:
    bool ended();

    pid_t pid_ = -1;
    int raw_status_ = 0;
    bool done_ = false;
    std::string out_, err_;
};

/// Runs the program to its end.
Ended run_vvtq(const std::string& arguments, const std::string& scratch);

/// idx files of a Fashion-MNIST with few pictures: bars whose place tells the class, with noise.
void write_idx_dataset(const std::string& dir, int train, int evaluation);

/// A folder data set of 8 x 8 BMP pictures: train/ and val/ with `classes` folders of `pictures` each.
void write_folder_dataset(const std::string& dir, int classes, int pictures);

/// Flags of a short run on the idx files, begun and ended by a space; the model is the published nano.
std::string tiny_flags(const std::string& data_dir, const std::string& save_dir);

std::string text_of(const std::string& path);
data::Bytes bytes_of(const std::string& path);

}  // namespace vvtq::tests
