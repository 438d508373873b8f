// directories: what a folder holds, to any depth and through links.
#pragma once

#include <string>
#include <vector>

namespace vvtq::data {

/// The names in a directory, sorted; what links lead to decides the list.
struct Names {
    std::vector<std::string> directories, others;
};

/// Errors: input_error naming the directory where it cannot be listed.
Names names_in(const std::string& directory);

/// "<start>", a directory below `root`, and "<start>/<name>" for the directories below it, sorted; an empty
/// `start` is `root` itself. A directory that several links lead to comes once, by its own name if it has one
/// here, and no link leads back to `root` or above `start`. Errors: as of names_in.
std::vector<std::string> directories_below(const std::string& root, const std::string& start);

}  // namespace vvtq::data
