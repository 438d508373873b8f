#include "tests/command_support.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

#include "engine/check.h"
#include "engine/random.h"
#include "tests/catch.h"

namespace vvtq::tests {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

void append_u32(data::Bytes& bytes, uint32_t value, bool big_endian) {
    for (int i = 0; i < 4; ++i) {
        bytes.push_back(static_cast<uint8_t>(value >> (big_endian ? 24 - 8 * i : 8 * i)));
    }
}

void write_file(const std::string& path, const data::Bytes& bytes) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

/// One value of picture `index` of class `label` at (y, x) of side x side.
uint8_t bar_pixel(engine::Random& noise, int label, int classes, int x, int side) {
    const bool on = x * classes / side == label;
    return static_cast<uint8_t>((on ? 180 : 20) + noise.below(50));
}

void write_idx_split(const std::string& stem, int count, uint64_t seed) {
    constexpr int kSide = 28, kClasses = 10;
    data::Bytes labels{0, 0, 8, 1}, images{0, 0, 8, 3};
    append_u32(labels, static_cast<uint32_t>(count), true);
    append_u32(images, static_cast<uint32_t>(count), true);
    append_u32(images, kSide, true);
    append_u32(images, kSide, true);
    engine::Random noise(seed);
    for (int i = 0; i < count; ++i) {
        labels.push_back(static_cast<uint8_t>(i % kClasses));
        for (int p = 0; p < kSide * kSide; ++p) {
            images.push_back(bar_pixel(noise, i % kClasses, kClasses, p % kSide, kSide));
        }
    }
    write_file(stem + "-labels-idx1-ubyte", labels);
    write_file(stem + "-images-idx3-ubyte", images);
}

/// An uncompressed BMP of 24 bits.
data::Bytes bmp(engine::Random& noise, int label, int classes) {
    constexpr uint32_t kSide = 8, kHeader = 54;
    data::Bytes bytes{'B', 'M'};
    append_u32(bytes, kHeader + kSide * kSide * 3, false);
    append_u32(bytes, 0, false);
    append_u32(bytes, kHeader, false);
    append_u32(bytes, 40, false);
    append_u32(bytes, kSide, false);
    append_u32(bytes, kSide, false);
    append_u32(bytes, 1 | (24U << 16), false);  // planes, bits
    for (int i = 0; i < 6; ++i) {
        append_u32(bytes, 0, false);
    }
    for (uint32_t p = 0; p < kSide * kSide * 3; ++p) {
        bytes.push_back(bar_pixel(noise, label, classes, static_cast<int>(p / 3 % kSide), kSide));
    }
    return bytes;
}

}  // namespace

Running::Running(const std::string& arguments, const std::string& scratch)
    : out_(scratch + "/stdout"), err_(scratch + "/stderr") {
    std::vector<std::string> words{VVTQ_BINARY};
    std::istringstream in(arguments);
    for (std::string word; in >> word;) {
        words.push_back(word);
    }
    std::vector<char*> argv;
    for (std::string& word : words) {
        argv.push_back(word.data());
    }
    argv.push_back(nullptr);
    write_file(out_, {});
    write_file(err_, {});
    pid_ = fork();
    if (pid_ == 0) {
        const int out = open(out_.c_str(), O_WRONLY | O_APPEND);
        const int err = open(err_.c_str(), O_WRONLY | O_APPEND);
        dup2(out, STDOUT_FILENO);
        dup2(err, STDERR_FILENO);
        execv(argv[0], argv.data());
        _exit(127);
    }
    VVTQ_CHECK(pid_ > 0, "cannot fork");
}

Running::~Running() {
    if (!ended()) {
        kill(pid_, SIGKILL);
        waitpid(pid_, &raw_status_, 0);
    }
}

bool Running::ended() {
    done_ = done_ || waitpid(pid_, &raw_status_, WNOHANG) == pid_;
    return done_;
}

bool Running::wait_for(const std::string& text) {
    return wait_until([&] { return text_of(out_).find(text) != std::string::npos; });
}

std::string Running::err() const { return text_of(err_); }

bool Running::wait_until(const std::function<bool()>& holds) {
    const auto deadline = steady_clock::now() + std::chrono::minutes(1);
    while (steady_clock::now() < deadline) {
        const bool over = ended();
        if (holds()) {
            return true;
        }
        if (over) {
            return false;
        }
        std::this_thread::sleep_for(milliseconds(2));
    }
    return false;
}

void Running::signal(int number) const {
    if (!done_) kill(pid_, number);
}

void Running::stop() const {
    signal(SIGSTOP);
    siginfo_t info{};
    while (waitid(P_PID, static_cast<id_t>(pid_), &info, WSTOPPED | WEXITED | WNOWAIT) != 0 && errno == EINTR) {
    }
}

Ended Running::wait() {
    if (!done_) {
        waitpid(pid_, &raw_status_, 0);
        done_ = true;
    }
    const int status = WIFEXITED(raw_status_) ? WEXITSTATUS(raw_status_) : 1000 + WTERMSIG(raw_status_);
    return {status, text_of(out_), text_of(err_)};
}

Ended run_vvtq(const std::string& arguments, const std::string& scratch) {
    return Running(arguments, scratch).wait();
}

Ended run_shell(const std::string& command, const std::string& scratch) {
    const std::string out = scratch + "/stdout", err = scratch + "/stderr";
    const std::string line = "VVTQ='" VVTQ_BINARY "'; { " + command + "; } >" + out + " 2>" + err;
    const int status = std::system(line.c_str());
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    return {code, text_of(out), text_of(err)};
}

MemoryDisk::MemoryDisk(const std::string& dir, const std::string& size) : dir_(dir) {
    std::filesystem::create_directories(dir);
    mounted_ = ::mount("none", dir.c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0;
    if (!mounted_) WARN("not tested: this process may not mount a file system");
}

MemoryDisk::~MemoryDisk() {
    if (mounted_) ::umount2(dir_.c_str(), MNT_DETACH);
}

void MemoryDisk::make_read_only() {
    const int done = ::mount("none", dir_.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, nullptr);
    VVTQ_CHECK(done == 0, "cannot mount ", dir_, " read-only");
}

void MemoryDisk::fill(size_t left) const {
    const int descriptor = ::open((dir_ + "/filler").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    const data::Bytes page(4096, 1);
    off_t size = 0;
    while (data::write_all(descriptor, page.data(), page.size())) size += 4096;
    const int done = ::ftruncate(descriptor, std::max<off_t>(0, size - static_cast<off_t>(left)));
    ::close(descriptor);
    VVTQ_CHECK(done == 0, "cannot shorten the filler");
}

void MemoryDisk::free() const { std::filesystem::remove(dir_ + "/filler"); }

void write_idx_dataset(const std::string& dir, int train, int evaluation) {
    std::filesystem::create_directories(dir);
    write_idx_split(dir + "/train", train, 1);
    write_idx_split(dir + "/t10k", evaluation, 2);
}

void write_folder_dataset(const std::string& dir, int classes, int pictures) {
    engine::Random noise(3);
    for (const char* split : {"train", "val"}) {
        for (int label = 0; label < classes; ++label) {
            const std::string folder = dir + "/" + split + "/class" + std::to_string(label);
            std::filesystem::create_directories(folder);
            for (int i = 0; i < pictures; ++i) {
                write_file(folder + "/" + std::to_string(i) + ".bmp", bmp(noise, label, classes));
            }
        }
    }
}

std::string tiny_flags(const std::string& data_dir, const std::string& save_dir) {
    return " --dataset fashion-mnist --data " + data_dir + " --save_checkpoint_path " + save_dir +
           " --model deit_nano_patch4_28 -b 16 --warmup-epochs 0 --threads 1 -j 1 -p 1 ";
}

std::string text_of(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
}

data::Bytes bytes_of(const std::string& path) {
    const std::string text = text_of(path);
    return {text.begin(), text.end()};
}

}  // namespace vvtq::tests
