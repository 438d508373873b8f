// folder: what a folder of class folders holds, and which folder of a data set holds a split.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace vvtq::data {

/// The pictures below one folder, such as train/, class after class.
struct Listing {
    std::vector<std::string> classes;
    std::vector<std::string> files;  ///< "<class>/<picture>"
    std::vector<int> labels;
    std::vector<uint64_t> sizes;  ///< of the files, in bytes
};

/// As torchvision's ImageFolder: every directory is a class, its pictures are found at any depth and through
/// links, directories and then names sorted by their bytes, and told by the end of the name alone. Unlike
/// there, a directory that several links of a class lead to counts once. Errors: input_error where there is
/// no class, an empty one, or a picture of a type that is not read.
Listing list_pictures(const std::filesystem::path& root);

/// Dataset::fingerprint() of the pictures in the folder `split_name`.
uint64_t fingerprint_of(const std::string& split_name, const Listing& listing);

constexpr const char* kFolderLayout = "folders hold train/<class>/<picture>, and val/ or test/ likewise";

}  // namespace vvtq::data
