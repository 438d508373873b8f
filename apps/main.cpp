// The `vvtq` program. Exit status: 0 done; 1 the run failed or was stopped by a signal; 2 bad usage or input.
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "apps/commands/commands.h"
#include "apps/options/options.h"
#include "engine/check.h"
#include "engine/threads.h"

namespace {

using vvtq::apps::Command;

int run(vvtq::apps::Options& options) {
    vvtq::engine::set_threads(options.run.threads);
    switch (options.command) {
        case Command::help:
            std::cout << options.help;
            return 0;
        case Command::pretrain:
        case Command::train:
            return vvtq::apps::command_train(options);
        case Command::softlabel:
            return vvtq::apps::command_softlabel(options);
        case Command::bench_step:
            return vvtq::apps::command_bench_step(options);
        case Command::bench_op:
            return vvtq::apps::command_bench_op(options);
        case Command::bench_loader:
            return vvtq::apps::command_bench_loader(options);
    }
    return 1;
}

/// "vvtq train", for messages about command lines that cannot be parsed too.
std::string command_of(const std::vector<std::string>& arguments) {
    std::string command = "vvtq";
    for (const std::string& word : arguments) {
        if (word != "pretrain" && word != "softlabel" && word != "train" && word != "bench" &&
            word != "step" && word != "op" && word != "loader") {
            break;
        }
        command += " ";
        command += word;
    }
    return command;
}

}  // namespace

int main(int argc, char** argv) {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    const std::string command = command_of(arguments);
    try {
        const auto options = vvtq::apps::parse_options(arguments);
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
