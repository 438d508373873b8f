// agreement: what all processes of a job must have in common before they train together.
#pragma once

#include <map>
#include <string>

#include "apps/training/processes.h"

namespace vvtq::apps {

/// Compares `own`, names and values, with those of the first process. Throws Error(Fault::input) on all
/// processes, naming one that differs, its host, and the value.
void require_agreement(const Processes& processes, const std::map<std::string, std::string>& own);

}  // namespace vvtq::apps
