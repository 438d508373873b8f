// CIFAR-10's binary batches: records of a class and 32 x 32 pixels in three planes.
#include <array>
#include <filesystem>
#include <sstream>

#include "data/dataset.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

constexpr int kSide = 32, kClasses = 10;
constexpr size_t kPlane = size_t{kSide} * kSide;
constexpr size_t kRecord = 1 + 3 * kPlane;
constexpr const char* kRemedy = "name the folder of CIFAR-10's binary version with `data`";

// batches.meta.txt, a name a line; the usual names where the file is not there.
std::vector<std::string> class_names(const std::string& dir) {
    const std::string path = dir + "/batches.meta.txt";
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) {
        return {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"};
    }
    const Bytes bytes = read_file(path, kRemedy);
    std::istringstream lines(std::string(bytes.begin(), bytes.end()));
    std::vector<std::string> names;
    for (std::string line; std::getline(lines, line);) {
        if (!line.empty()) names.push_back(line);
    }
    if (names.size() != kClasses) {
        engine::input_error("'", printable(path), "' names ", names.size(),
                            " classes, not 10: fetch it again");
    }
    return names;
}

}  // namespace

std::string cifar10_binary_folder(const std::string& dir) {
    std::error_code ignored;
    for (const std::string& folder : {dir, dir + "/cifar-10-batches-bin"}) {
        if (std::filesystem::exists(folder + "/data_batch_1.bin", ignored) ||
            std::filesystem::exists(folder + "/test_batch.bin", ignored)) {
            return folder;
        }
    }
    return "";
}

void parse_cifar10(std::span<const uint8_t> bytes, const std::string& path, std::vector<int>& labels,
                   Bytes& pixels) {
    if (bytes.empty() || bytes.size() % kRecord != 0) {
        engine::input_error("'", printable(path), "' has ", bytes.size(), " bytes, which are no records of ",
                            kRecord, ": fetch it again");
    }
    for (size_t at = 0; at < bytes.size(); at += kRecord) {
        if (bytes[at] >= kClasses) {
            engine::input_error("'", printable(path), "' names class ", int{bytes[at]},
                                " of 10: fetch it again");
        }
        labels.push_back(bytes[at]);
        const uint8_t* planes = bytes.data() + at + 1;
        for (size_t i = 0; i < kPlane; ++i) {
            pixels.insert(pixels.end(), {planes[i], planes[kPlane + i], planes[2 * kPlane + i]});
        }
    }
}

std::unique_ptr<Dataset> open_cifar10_binary(const std::string& dir, Split split) {
    std::vector<std::string> files{"test_batch.bin"};
    if (split == Split::train) {
        files.clear();
        for (const char* number : {"1", "2", "3", "4", "5"}) {
            files.push_back(std::string("data_batch_") + number + ".bin");
        }
    }
    std::vector<int> labels;
    Bytes pixels, bytes;
    for (const std::string& file : files) {
        const std::string path = dir + "/" + file;
        read_file(path, kRemedy, bytes, [&](std::span<const uint8_t>, uint64_t size) {
            constexpr uint64_t kMost = uint64_t{1} << 30;
            if (size > kMost) {
                engine::input_error("'", printable(path), "' has ", size, " bytes, too many: ", kRemedy);
            }
        });
        parse_cifar10(bytes, path, labels, pixels);
    }
    return make_memory_dataset(dir, split == Split::train ? "train" : "test", class_names(dir),
                               std::move(labels), std::move(pixels), kSide, kSide, 3);
}

}  // namespace vvtq::data
