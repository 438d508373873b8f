#include "tests/sources.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

#include "engine/check.h"

namespace vvtq::tests {

namespace fs = std::filesystem;

SourceFile source_file(const std::string& path) {
    std::ifstream in(fs::path(VVTQ_SOURCE_DIR) / path);
    std::ostringstream text;
    text << in.rdbuf();
    if (!in) {
        engine::run_error(path, ": cannot be read");
    }
    return {path, text.str()};
}

std::vector<SourceFile> source_files(const std::vector<std::string>& folders) {
    std::vector<SourceFile> files;
    for (const std::string& folder : folders) {
        for (const auto& entry : fs::recursive_directory_iterator(fs::path(VVTQ_SOURCE_DIR) / folder)) {
            const std::string extension = entry.path().extension().string();
            if (entry.is_regular_file() &&
                (extension == ".h" || extension == ".cpp" || extension == ".cu" || extension == ".cuh")) {
                files.push_back(source_file(fs::relative(entry.path(), VVTQ_SOURCE_DIR).generic_string()));
            }
        }
    }
    std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.path < b.path; });
    return files;
}

std::vector<std::string> matches(const std::string& text, const std::string& pattern) {
    const std::regex regex(pattern);
    std::vector<std::string> found;
    for (std::sregex_iterator match(text.begin(), text.end(), regex), end; match != end; ++match) {
        found.push_back((*match)[1].str());
    }
    return found;
}

}  // namespace vvtq::tests
