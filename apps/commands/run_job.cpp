#include "apps/commands/run_job.h"

#include <algorithm>

#include "apps/launch/launch.h"
#include "engine/check.h"
#include "engine/device.h"
#include "engine/threads.h"

namespace vvtq::apps {
namespace {

/// The place with the numbers of machines and of processes on each as they are: a launcher may not say them.
Place counted(Job& job) {
    Place place = job.place();
    const auto local_ranks = job.exchange(std::to_string(place.local_rank));
    const auto machines = std::count(local_ranks.begin(), local_ranks.end(), "0");
    place.machines = std::max(1, static_cast<int>(machines));
    place.local_size = (place.size + place.machines - 1) / place.machines;
    return place;
}

/// Gives this process its share of the machine, and its device.
void take_share(Options& options, const Place& place) {
    const auto divided = [&](int of_machine) {
        return (of_machine + place.local_size - 1) / place.local_size;
    };
    engine::set_threads(options.run.threads);
    engine::set_threads(std::max(1, engine::threads() / place.local_size));
    options.data.workers = divided(options.data.workers);
    options.data.batch_size *= place.machines;
    const int shards = options.parallel.shards;
    if (shards > 1 && shards % place.size != 0) {
        engine::input_error("--shards ", shards, ": cannot be shared out over ", place.size,
                            " processes; use a multiple of ", place.size,
                            ", or 1, or another number of processes");
    }
    if (options.run.gpu >= 0 && place.local_size > 1) {
        engine::input_error(
            "--gpu: each of several processes takes a GPU of its own; leave it out, and limit "
            "the GPUs by CUDA_VISIBLE_DEVICES");
    }
    std::string& device = options.run.device;
    const std::string& backend = options.launch.backend;
    if (backend == "gloo" && (device == "cuda" || options.run.gpu >= 0)) {
        engine::input_error("--dist-backend gloo: is for processes on CPUs; use nccl, or --device cpu");
    }
    if (backend == "nccl" && device == "cpu") {
        engine::input_error("--dist-backend nccl: is for processes on GPUs; use gloo with --device cpu");
    }
    if (!backend.empty()) device = backend == "gloo" ? "cpu" : "cuda";
    if (device != "cpu" && options.run.gpu < 0) engine::choose_gpu(place.local_rank);
}

int run_as(Options& options, const Place& place, int (*command)(Options&, Job*)) {
    Job job(place, "vvtq " + options.command, options.launch.timeout);
    int status = 1;
    try {
        options.with_flags_in_errors([&] {
            take_share(options, counted(job));
            status = command(options, &job);
        });
    } catch (const engine::OutOfMemory& error) {
        job.fail(std::string(error.what()) + "; use a smaller --batch-size", 2);
    } catch (const engine::Error& error) {
        job.fail(error.what(), error.fault() == engine::Fault::input ? 2 : 1);
    } catch (const std::bad_alloc&) {
        job.fail("out of memory; try a smaller --batch-size", 1);
    } catch (const std::exception& error) {
        job.fail(error.what(), 1);
    }
    return status;
}

}  // namespace

int run_job(Options& options, int (*command)(Options&, Job*)) {
    const LaunchFlags& flags = options.launch;
    const bool asks_gpus =
        flags.multiprocessing && flags.nproc == 0 && flags.backend != "gloo" && options.run.device != "cpu";
    const LaunchPlan plan = plan_launch(flags, environment(), asks_gpus ? count_gpus() : 0);
    if (!plan.place.several) {
        for (const char* flag :
             {"--buckets", "--reduce-precision", "--dist-timeout", "--dist-backend", "--dist-url"}) {
            if (!options.given(flag)) continue;
            engine::input_error(flag,
                                ": has no effect on one process; ask for several, for example by "
                                "--nproc, or leave it out");
        }
        engine::set_threads(options.run.threads);
        return command(options, nullptr);
    }
    const auto work = [&](const Place& place) { return run_as(options, place, command); };
    return plan.start > 0 ? run_processes(plan, "vvtq " + options.command, work) : work(plan.place);
}

}  // namespace vvtq::apps
