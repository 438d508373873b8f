// sources: the program's own source files as text, for tests of how they are built.
#pragma once

#include <string>
#include <vector>

namespace vvtq::tests {

struct SourceFile {
    std::string path;  // from the repository's root, "engine/cpu/norm.cpp"
    std::string text;
};

/// One file of the repository. Throws engine::Error where it cannot be read.
SourceFile source_file(const std::string& path);
/// All .h, .cpp, .cu and .cuh files below the given folders of the repository.
std::vector<SourceFile> source_files(const std::vector<std::string>& folders);
/// What the first group of a regular expression matches, everywhere in the text.
std::vector<std::string> matches(const std::string& text, const std::string& pattern);

}  // namespace vvtq::tests
