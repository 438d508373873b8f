// The `vvtq` program. Exit status: 0 done; 1 the run failed or was stopped by a signal, or its output could
// not be written; 2 bad usage or input.
#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <exception>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "apps/commands/commands.h"
#include "apps/commands/run_job.h"
#include "apps/options/options.h"
#include "apps/training/interrupt.h"
#include "data/bytes.h"
#include "engine/check.h"
#include "engine/threads.h"

namespace {

using namespace vvtq::apps;

template <int (*command)(Options&)>
int alone(Options& options) {
    vvtq::engine::set_threads(options.run.threads);
    return command(options);
}
template <int (*command)(Options&, Job*)>
int shared(Options& options) {
    return run_job(options, command);
}

const std::map<std::string, int (*)(Options&)> kCommands = {{"pretrain", shared<command_train>},
                                                            {"train", shared<command_train>},
                                                            {"softlabel", alone<command_softlabel>},
                                                            {"predict", alone<command_predict>},
                                                            {"inspect", alone<command_inspect>},
                                                            {"convert", alone<command_convert>},
                                                            {"bench step", shared<command_bench_step>},
                                                            {"export", alone<command_export>},
                                                            {"pack", alone<command_pack>},
                                                            {"unpack", alone<command_unpack>},
                                                            {"bench op", alone<command_bench_op>},
                                                            {"bench predict", alone<command_bench_predict>},
                                                            {"bench loader", alone<command_bench_loader>},
                                                            {"bench train", alone<command_bench_train>}};

int run(Options& options) {
    if (options.command.empty()) std::cout << options.help;
    if (options.command.empty() || options.run.dry_run) return 0;
    return kCommands.at(options.command)(options);
}

/// "vvtq train", for messages about command lines that cannot be parsed too.
std::string command_of(const std::vector<std::string>& arguments) {
    std::string command;
    for (const std::string& word : arguments) {
        const std::string longer = command + (command.empty() ? "" : " ") + word;
        const auto next = kCommands.lower_bound(longer);
        if (next == kCommands.end() || !(next->first + " ").starts_with(longer + " ")) break;
        command = longer;
    }
    return command.empty() ? "vvtq" : "vvtq " + command;
}

/// A standard stream that is closed would become the first file that the program opens.
void fill_standard_streams() {
    for (int descriptor = 0; descriptor <= STDERR_FILENO; ++descriptor) {
        if (::fcntl(descriptor, F_GETFD) < 0 && ::open("/dev/null", O_RDWR) < 0) return;
    }
}

int run_command(const std::vector<std::string>& arguments, const std::string& command) {
    try {
        const auto options = parse_options(arguments);
        int status = 1;
        options->with_flags_in_errors([&] { status = run(*options); });
        return status;
    } catch (const vvtq::engine::OutOfMemory& error) {
        std::cerr << command << ": error: " << error.what() << "; use a smaller --batch-size" << std::endl;
        return 2;
    } catch (const vvtq::engine::Error& error) {
        std::cerr << command << ": error: " << error.what() << std::endl;
        return error.fault() == vvtq::engine::Fault::input ? 2 : 1;
    } catch (const std::bad_alloc&) {
        std::cerr << command << ": error: out of memory; try a smaller --batch-size" << std::endl;
        return 1;
    } catch (const std::exception& error) {
        std::cerr << command << ": error: " << error.what() << std::endl;
        return 1;
    }
}

}  // namespace

int main(int argc, char** argv) {
    fill_standard_streams();
    std::signal(SIGPIPE, SIG_IGN);  // output that nobody takes, and files that may not grow, are errors
    std::signal(SIGXFSZ, SIG_IGN);
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    const std::string command = command_of(arguments);
    stop_at_signals(command);
    vvtq::data::tell_of_lost_mappings(command);
    const int status = run_command(arguments, command);
    std::cout.flush();
    if (!std::cout && status == 0) {
        std::cerr << command << ": error: standard output could not be written: free some space or send it "
                  << "elsewhere" << std::endl;
    }
    return status == 0 && !(std::cout && std::cerr) ? 1 : status;
}
