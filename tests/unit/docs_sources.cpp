// What the documents say about the sources: files that they name exist, and code that docs/design.md shows is
// the code that is there.
#include <filesystem>
#include <set>
#include <sstream>

#include "tests/catch.h"
#include "tests/sources.h"

using namespace vvtq::tests;

namespace {

const std::vector<std::string> kDocuments = {"README.md",
                                             "docs/augmentation.md",
                                             "docs/commands.md",
                                             "docs/data.md",
                                             "docs/deployment.md",
                                             "docs/design.md",
                                             "docs/gpu.md",
                                             "docs/inspector.md",
                                             "docs/library.md",
                                             "docs/method.md",
                                             "docs/performance.md",
                                             "docs/quantizers.md",
                                             "docs/specification.md",
                                             "docs/several_processes.md",
                                             "docs/scaling.md",
                                             "docs/packed_format.md"};

std::string trimmed(const std::string& line) {
    const size_t first = line.find_first_not_of(" \t"), last = line.find_last_not_of(" \t\r");
    return first == std::string::npos ? "" : line.substr(first, last - first + 1);
}

/// Its lines without the blanks around them.
std::set<std::string> lines_of(const std::string& text) {
    std::set<std::string> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.insert(trimmed(line));
    return lines;
}

/// The lines of a document's ```cpp blocks.
std::vector<std::string> code_lines(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream in(text);
    bool code = false;
    for (std::string line; std::getline(in, line);) {
        if (line.rfind("```", 0) == 0) {
            code = line == "```cpp";
        } else if (code && !trimmed(line).empty()) {
            lines.push_back(trimmed(line));
        }
    }
    return lines;
}

}  // namespace

TEST_CASE("docs: files that are named exist", "[docs]") {
    size_t named = 0;
    for (const std::string& document : kDocuments) {
        for (
            const std::string& path : matches(
                source_file(document).text,
                R"((?:^|[^\w/.-])((?:engine|autograd|nn|quant|data|apps|tests|docs|recipes)/[\w/.-]*\.(?:cpp|h|cuh?|md|toml|py|json)))")) {
            INFO(document << " names " << path);
            CHECK(std::filesystem::exists(std::filesystem::path(VVTQ_SOURCE_DIR) / path));
            ++named;
        }
    }
    CHECK(named > 40);
}

TEST_CASE("docs: the code in design.md stands in the sources", "[docs]") {
    std::set<std::string> all;
    for (const SourceFile& file : source_files({"engine", "autograd", "nn", "quant", "apps"}))
        all.merge(lines_of(file.text));
    const std::vector<std::string> shown = code_lines(source_file("docs/design.md").text);
    CHECK(shown.size() > 15);
    for (const std::string& line : shown) {
        INFO(line);
        CHECK(all.count(line) == 1);
    }
}

TEST_CASE("docs: library.md shows what the examples print", "[docs]") {
    const std::string library = source_file("docs/library.md").text;
    for (const std::string example : {"quantizer", "own_op", "classify"}) {
        const std::string printed = source_file("examples/expected/" + example + ".txt").text;
        INFO(example);
        CHECK(printed.size() > 10);
        CHECK(library.find("```text\n" + printed + "```") != std::string::npos);
    }
}
