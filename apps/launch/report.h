// report: who prints the line of a failed job. A process that `run_processes` started leaves it to its
// starter, which knows more; any other prints its own.
#pragma once

#include <functional>
#include <string>

#include "apps/launch/job.h"

namespace vvtq::apps {

/// What a process that was started says to its starter.
struct Report {
    int rank = 0, status = 0;
    bool named = false;  // `text` says already which rank it is about, or that it is about all
    bool ended = false;  // no failure: the work is done, with `status`
    std::string text;
};

/// Does the work of a started process; what it throws becomes the report.
Report report_of(const Place& place, const std::function<int(const Place&)>& work);
/// From here on reports of this process go to this pipe.
void report_to(int pipe);
/// Prints "COMMAND: error: TEXT", or sends it to the starter. Usable in any thread.
void report(const std::string& command, const Report& report);
/// Takes the first whole report off `bytes`, which came from the pipe; false where there is none.
bool take_report(std::string& bytes, Report& report);

}  // namespace vvtq::apps
