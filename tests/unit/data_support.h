// What the tests of data/ share: where the fixtures lie, a scratch directory, and the picture of the goldens.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "data/bytes.h"
#include "data/dataset.h"
#include "data/image.h"
#include "engine/check.h"
#include "tests/catch.h"

namespace vvtq::tests {

/// A file of the environment's VVTQ_FIXTURES, or of tests/fixtures where that directory has none of this
/// name.
std::string fixture_path(const std::string& name);
inline data::Bytes fixture(const std::string& name) {
    return data::read_file(fixture_path(name), "check out again");
}

/// A directory of its own for one test, removed at the end.
class Scratch {
  public:
    explicit Scratch(const std::filesystem::path& parent = std::filesystem::temp_directory_path()) {
        std::string pattern = (parent / "vvtq-test-XXXXXX").string();
        if (::mkdtemp(pattern.data()) == nullptr) engine::run_error("no scratch directory ", pattern);
        path_ = pattern;
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }
    const std::string& path() const { return path_; }

  private:
    std::string path_;
};

inline void write_bytes(const std::string& path, const data::Bytes& bytes) {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::filesystem::remove(path);  // overwriting makes some file systems flush: slow in a loop
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

/// True where `action` throws Error(Fault::input) whose one-line message names `name`.
template <typename Action>
bool refuses(const std::string& name, Action action) {
    try {
        action();
    } catch (const engine::Error& error) {
        const std::string message = error.what();
        INFO(message);
        CHECK(message.find('\n') == std::string::npos);
        CHECK(message.find(name) != std::string::npos);
        return error.fault() == engine::Fault::input;
    }
    return false;
}

/// A data set of pictures "train/<class>/<number>.png" that cannot be decoded, called `name`.
class NamedDataset : public data::Dataset {
  public:
    NamedDataset(const std::string& name, int64_t size, int classes, uint64_t fingerprint)
        : Dataset(name, std::vector<std::string>(static_cast<size_t>(classes), "a class"),
                  std::vector<int>(static_cast<size_t>(size), 0)),
          fingerprint_(fingerprint) {}
    std::string id(int64_t index) const override {
        return "train/class" + std::to_string(index % 10) + "/" + std::to_string(index) + ".png";
    }
    void open(int64_t index, data::PictureReader&) const override {
        engine::input_error("no picture ", index);
    }
    uint64_t fingerprint() const override { return fingerprint_; }

  private:
    uint64_t fingerprint_;
};

/// The picture that goldens/image.json describes, drawn from its `tag` and size: left half noise, right half
/// ramps. fixtures/picture.png holds the same one.
data::Image golden_picture();

}  // namespace vvtq::tests
