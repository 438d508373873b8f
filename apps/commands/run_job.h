// run_job: runs a command in one process or in several.
#pragma once

#include "apps/launch/job.h"
#include "apps/options/options.h"

namespace vvtq::apps {

/// Starts the processes that flags or a launcher ask for, and runs `command` in each, or in this one. What
/// belongs to a machine (threads, loading threads) is divided by its processes, and what is given for a
/// machine (the batch size) multiplied by the number of machines. Returns the exit status.
int run_job(Options& options, int (*command)(Options& options, Job* job));

}  // namespace vvtq::apps
