#include "tests/jobs_support.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "data/safetensors.h"
#include "tests/model_files.h"

namespace fs = std::filesystem;

namespace vvtq::tests {
namespace {

using std::chrono::steady_clock;

/// What /proc says of a process.
struct Process {
    pid_t pid = 0, parent = 0;
    int64_t start = 0;
};

/// Living processes whose command line holds `words`; those that started processes fork have theirs.
std::vector<Process> processes_with(const std::string& words) {
    VVTQ_CHECK(words.size() > 10, "'", words, "' may be anyone's");
    std::vector<Process> found;
    for (const auto& entry : fs::directory_iterator("/proc")) {
        const std::string name = entry.path().filename().string();
        if (name.find_first_not_of("0123456789") != std::string::npos) continue;
        if (!has(text_of(entry.path() / "cmdline"), words)) continue;  // empty: it has ended
        const std::string text = text_of(entry.path() / "stat");
        if (text.rfind(')') == std::string::npos) continue;
        std::istringstream stat(text.substr(text.rfind(')') + 1));
        std::vector<std::string> fields;
        for (std::string field; stat >> field;) fields.push_back(field);
        if (fields.size() < 20 || fields[0] == "Z") continue;
        found.push_back({std::stoi(name), std::stoi(fields[1]), std::stoll(fields[19])});
    }
    std::sort(found.begin(), found.end(), [](const Process& a, const Process& b) {
        return std::pair(a.start, a.pid) < std::pair(b.start, b.pid);
    });
    return found;
}

sockaddr_in loopback(int port) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

/// The port that a socket could listen at; -1 where it could not.
int listen_once(int port) {
    const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in address = loopback(port);
    socklen_t size = sizeof address;
    const bool good = ::bind(socket, reinterpret_cast<const sockaddr*>(&address), size) == 0 &&
                      ::listen(socket, 1) == 0 &&
                      ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) == 0;
    ::close(socket);
    return good ? ntohs(address.sin_port) : -1;
}

}  // namespace

JobRun::JobRun(const std::string& scratch, const std::string& arguments,
               const std::vector<std::string>& variables) {
    std::string pattern = scratch + "/job-XXXXXX";
    VVTQ_CHECK(::mkdtemp(pattern.data()) != nullptr, "no folder ", pattern);
    folder_ = pattern;
    for (const std::string& variable : variables) {
        const size_t equals = variable.find('=');
        ::setenv(variable.substr(0, equals).c_str(), variable.c_str() + equals + 1, 1);
    }
    // The log's place tells this command's processes from others.
    running_ = std::make_unique<Running>(arguments + " --log " + folder_ + "/log", folder_);
    for (const std::string& variable : variables) ::unsetenv(variable.substr(0, variable.find('=')).c_str());
}

JobRun::~JobRun() {
    for (const pid_t pid : left()) ::kill(pid, SIGKILL);
}

std::vector<pid_t> JobRun::left() const {
    std::vector<pid_t> pids;
    for (const Process& process : processes_with(folder_)) pids.push_back(process.pid);
    return pids;
}

std::vector<pid_t> JobRun::ranks() const {
    std::vector<pid_t> pids;
    for (const Process& process : processes_with(folder_)) {
        if (process.parent == running_->pid()) pids.push_back(process.pid);
    }
    return pids;
}

std::vector<pid_t> JobRun::wait_for_ranks(size_t count) {
    REQUIRE(running_->wait_until([&] { return ranks().size() == count; }));
    return ranks();
}

Ended JobRun::ends_within(double seconds) {
    const auto start = steady_clock::now();
    const auto passed = [&] { return std::chrono::duration<double>(steady_clock::now() - start).count(); };
    // a process that is just calling exec has no command line
    while ((!running_->ended() || !left().empty()) && passed() < seconds + 10) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    seconds_ = passed();
    CHECK(seconds_ < seconds);
    for (const pid_t pid : left()) {
        UNSCOPED_INFO("left over: process " << pid);
        ::kill(pid, SIGKILL);
    }
    return running_->wait();
}

std::string Jobs::run(const std::string& name, int batch) const {
    return " --dataset fashion-mnist --data " + data + " --save_checkpoint_path " + scratch / name +
           " --img-size 16 --drop-path 0.2 --device cpu --threads 1 -j 1 -p 1 --warmup-epochs 0 -b " +
           std::to_string(batch) + " ";
}

std::string Jobs::train(const std::string& name, const std::string& more, int batch) const {
    return "train --wbits 3 --abits 3 --reg " + run(name, batch) + kDeit + more + " ";
}

std::string Jobs::pretrain(const std::string& name, const std::string& more) const {
    return "pretrain" + run(name) + kDeit + more + " ";
}

void Jobs::make_labels() const {
    done(pretrain("teacher", "--epochs 1 --no-aug"));
    done(
        "softlabel --crops-per-image 6 --min-crop-area 0.5 --threads 1 -b 50 --device cpu "
        "--dataset fashion-mnist --data " +
        data + " --teacher " + file("teacher") + " --softlabel_path " + scratch / "labels");
}

std::string Jobs::with_labels(int crops) const {
    return "--softlabel_path " + scratch / "labels" + " --num_crops " + std::to_string(crops) + " ";
}

std::string Jobs::done(const std::string& arguments) const {
    const Ended ended = run_vvtq(arguments, scratch.path());
    INFO(arguments << "\n" << ended.err);
    REQUIRE(ended.status == 0);
    CHECK(ended.err == "");
    return ended.out;
}

void Jobs::same_files(const std::string& one, const std::string& other) const {
    for (const char* name : {"checkpoint", "model_best"}) {
        INFO(one << " and " << other << ", " << name);
        REQUIRE(fs::exists(file(one, name)));
        CHECK(bytes_of(file(other, name)) == bytes_of(file(one, name)));
    }
}

void Jobs::copy(const std::string& from, const std::string& to) const {
    fs::copy(scratch / from, scratch / to, fs::copy_options::recursive);
}

std::string processes(int count, double timeout) {
    if (count == 1) return "";
    return "--nproc " + std::to_string(count) + " --dist-timeout " + std::to_string(timeout) + " ";
}

int64_t steps_of(const std::string& path) {
    return fs::exists(path) ? std::stoll(data::SafeTensors::open(path).metadata().at("step")) : 0;
}

size_t half_written(const std::string& folder) {
    size_t count = 0;
    if (!fs::exists(folder)) return count;
    for (const auto& entry : fs::directory_iterator(folder)) {
        count += entry.path().extension() == ".tmp" ? 1 : 0;
    }
    return count;
}

void check_end(const Ended& ended, int status, const std::vector<std::string>& words) {
    INFO(ended.err);
    CHECK(ended.status == status);
    CHECK(lines_of(ended.err).size() == 1);
    for (const std::string& word : words) {
        INFO(word);
        CHECK(has(ended.err, word));
    }
}

int free_tcp_port() { return listen_once(0); }

bool is_free(int port) { return listen_once(port) == port; }

bool becomes_free(int port) {
    for (int i = 0; i < 100 && !is_free(port); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return is_free(port);
}

}  // namespace vvtq::tests
