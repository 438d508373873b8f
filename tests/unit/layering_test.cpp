// The house rules that can be read off the sources: who includes whom, and how long a file is.
#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "tests/catch.h"
#include "tests/sources.h"

using namespace vvtq::tests;

namespace {

const std::vector<std::string> kFolders = {"engine", "autograd", "nn", "quant", "data", "apps", "tests"};

/// The folders that each folder's files may include from.
const std::map<std::string, std::set<std::string>> kMayInclude = {
    {"engine", {"engine"}},
    {"autograd", {"engine", "autograd"}},
    {"nn", {"engine", "autograd", "nn"}},
    {"quant", {"engine", "autograd", "nn", "quant"}},
    {"data", {"engine", "data"}},
    {"apps", {"engine", "autograd", "nn", "quant", "data", "apps"}},
    {"tests", {"engine", "autograd", "nn", "quant", "data", "apps", "tests"}},
};

/// The engine's file that picks a device's pool, kernel table and runtime.
const std::string kBackendChooser = "engine/backend.cpp";

/// The rooms of apps/ from which files of a room may not include.
const std::map<std::string, std::vector<std::string>> kClosedRooms = {
    {"apps/training/", {"apps/options/", "apps/commands/", "CLI/"}},
    {"apps/options/", {"apps/commands/"}},
};

bool starts_with(const std::string& text, const std::string& start) { return text.rfind(start, 0) == 0; }

std::string top_folder(const std::string& path) { return path.substr(0, path.find('/')); }

std::vector<std::string> project_includes(const SourceFile& file) {
    return matches(file.text, "(?:^|\\n)\\s*#\\s*include\\s*\"([^\"]+)\"");
}

std::vector<std::string> system_includes(const SourceFile& file) {
    return matches(file.text, "(?:^|\\n)\\s*#\\s*include\\s*<([^>]+)>");
}

bool is_cuda_header(const std::string& name) {
    for (const char* start :
         {"cuda", "cublas", "cudnn", "nccl", "nvrtc", "cub/", "thrust/", "nv/", "curand"}) {
        if (starts_with(name, start)) {
            return true;
        }
    }
    return false;
}

/// What is wrong with the includes of a file; empty where nothing is.
std::vector<std::string> include_faults(const SourceFile& file) {
    std::vector<std::string> faults;
    for (const std::string& include : project_includes(file)) {
        const auto allowed = kMayInclude.find(top_folder(file.path));
        if (allowed == kMayInclude.end() || allowed->second.count(top_folder(include)) == 0) {
            faults.push_back(include + " is not below " + file.path);
        }
        for (const std::string backend : {"engine/cpu/", "engine/cuda/"}) {
            const bool inside = starts_with(file.path, backend) || file.path == kBackendChooser;
            if (starts_with(include, backend) && !inside) {
                faults.push_back(file.path + " names a backend: " + include);
            }
        }
    }
    std::vector<std::string> all = system_includes(file);
    const std::vector<std::string> quoted = project_includes(file);
    all.insert(all.end(), quoted.begin(), quoted.end());
    for (const auto& [room, closed] : kClosedRooms) {
        for (const std::string& include : all) {
            const auto within = [&](const std::string& folder) { return starts_with(include, folder); };
            if (starts_with(file.path, room) && std::any_of(closed.begin(), closed.end(), within)) {
                faults.push_back(include + " is not below " + file.path);
            }
        }
    }
    for (const std::string& include : all) {
        if (is_cuda_header(include) && !starts_with(file.path, "engine/cuda/")) {
            faults.push_back(file.path + " includes a CUDA header: " + include);
        }
    }
    return faults;
}

}  // namespace

TEST_CASE("layering: engine <- autograd <- nn <- quant, engine <- data, backends stay apart", "[layering]") {
    const std::vector<SourceFile> files = source_files(kFolders);
    CHECK(files.size() > 20);  // the search finds them
    for (const SourceFile& file : files) {
        for (const std::string& fault : include_faults(file)) {
            FAIL_CHECK(fault);
        }
    }
}

TEST_CASE("layering: the check sees forbidden includes", "[layering]") {
    const auto faults = [](const std::string& path, const std::string& text) {
        return include_faults({path, text}).size();
    };
    CHECK(faults("nn/deit.cpp", "#include \"autograd/ops.h\"\n#include <vector>\n") == 0);
    CHECK(faults("nn/deit.cpp", "// x\n#include \"quant/lsq.h\"\n") == 1);
    CHECK(faults("engine/tensor.cpp", "#include \"autograd/ops.h\"\n") == 1);
    CHECK(faults("data/png.cpp", "#include \"nn/module.h\"\n") == 1);
    CHECK(faults("engine/cpu/lsq.cpp", "#include \"engine/cuda/backend.h\"\n") == 1);
    CHECK(faults("engine/tensor.cpp", "#include \"engine/cpu/parallel.h\"\n") == 1);
    CHECK(faults("engine/backend.cpp", "#include \"engine/cuda/backend.h\"\n") == 0);
    CHECK(faults("engine/device.cpp", "#include \"engine/cuda/backend.h\"\n") == 1);
    CHECK(faults("engine/composed.cpp", "#include \"engine/cuda/backend.h\"\n") == 1);
    CHECK(faults("apps/train.cpp", "#  include <cuda_runtime.h>\n") == 1);
    CHECK(faults("engine/cuda/lsq.cu", "#include <cuda_runtime.h>\n") == 0);
    CHECK(faults("apps/training/log.cpp", "#include \"apps/options/options.h\"\n") == 1);
    CHECK(faults("apps/training/log.cpp", "#include \"apps/commands/commands.h\"\n") == 1);
    CHECK(faults("apps/training/log.cpp", "#include <CLI/CLI.hpp>\n") == 1);
    CHECK(faults("apps/options/options.cpp", "#include \"apps/commands/commands.h\"\n") == 1);
    CHECK(faults("apps/options/options.cpp", "#include \"apps/training/value_text.h\"\n") == 0);
    CHECK(faults("quant/lsq.cpp", "#include \"lsq.h\"\n") == 1);  // includes are rooted at the repository
}

TEST_CASE("layering: libraries name fields, and know no flags", "[layering]") {
    const std::string flag = "\"[^\"\n]*(--[a-z]{2,})";
    CHECK(matches("input_error(\"use --lr\");", flag).size() == 1);
    for (const SourceFile& file :
         source_files({"engine", "autograd", "nn", "quant", "data", "apps/training"})) {
        INFO(file.path);
        CHECK(matches(file.text, flag).empty());
    }
}

TEST_CASE("layering: files have at most 400 lines", "[layering]") {
    for (const SourceFile& file : source_files(kFolders)) {
        INFO(file.path);
        CHECK(std::count(file.text.begin(), file.text.end(), '\n') <= 400);
    }
}

TEST_CASE("layering: scripts of the page are short, and make no HTML of texts", "[layering]") {
    size_t scripts = 0;
    for (const auto& entry : std::filesystem::directory_iterator(VVTQ_SOURCE_DIR "/apps/inspect_page")) {
        const SourceFile file = source_file("apps/inspect_page/" + entry.path().filename().string());
        INFO(file.path);
        CHECK(std::count(file.text.begin(), file.text.end(), '\n') <= 400);
        CHECK(
            matches(file.text, "(innerHTML|outerHTML|insertAdjacentHTML|document\\.write|eval\\(|\\.html\\()")
                .empty());
        scripts += file.path.ends_with(".js") ? 1 : 0;
    }
    CHECK(scripts > 10);
}
