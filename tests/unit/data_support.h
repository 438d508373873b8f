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

/// A file of the environment's VVTQ_FIXTURES, by default tests/fixtures.
inline std::string fixture_path(const std::string& name) {
    const char* directory = std::getenv("VVTQ_FIXTURES");
    return std::string(directory != nullptr ? directory : VVTQ_SOURCE_DIR "/tests/fixtures") + "/" + name;
}
inline data::Bytes fixture(const std::string& name) {
    return data::read_file(fixture_path(name), "check out again");
}

/// A directory of its own for one test, removed at the end.
class Scratch {
  public:
    Scratch() {
        std::string pattern = (std::filesystem::temp_directory_path() / "vvtq-test-XXXXXX").string();
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

/// u(name, i) of the goldens: splitmix64(fnv1a64(name) + i) >> 40, over 2^24.
inline double golden_uniform(const std::string& name, uint64_t i) {
    data::Fnv hash;
    hash.add(std::span(reinterpret_cast<const uint8_t*>(name.data()), name.size()));
    uint64_t z = hash.value() + i + 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    z ^= z >> 31;
    return static_cast<double>(z >> 40) / double{1 << 24};
}

/// The 150 x 200 picture of goldens/image.json: left half noise, right half ramps.
inline data::Image golden_picture() {
    constexpr int kHeight = 150, kWidth = 200;
    data::Image image{kHeight, kWidth, data::Bytes(size_t{kHeight} * kWidth * 3)};
    size_t i = 0;
    for (int y = 0; y < kHeight; ++y) {
        for (int x = 0; x < kWidth; ++x) {
            const int ramps[3] = {x * 255 / (kWidth - 1), y * 255 / (kHeight - 1),
                                  (x + y) * 255 / (kHeight + kWidth - 2)};
            for (int ramp : ramps) {
                const int noise = static_cast<int>(256 * golden_uniform("picture", i));
                image.rgb[i++] = static_cast<uint8_t>(x < kWidth / 2 ? noise : ramp);
            }
        }
    }
    return image;
}

}  // namespace vvtq::tests
