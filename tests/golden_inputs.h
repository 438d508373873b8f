// golden_inputs: deterministic numbers that other programs can rebuild from a name, and where the golden
// files are.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "engine/tensor.h"

namespace vvtq::tests {

/// u(name, i) = splitmix64(fnv1a64(name) + i) >> 40, over 2^24: in [0, 1).
std::vector<double> uniform01(const std::string& name, int64_t n);
/// offset + scale (2 u - 1).
std::vector<double> fill(const std::string& name, int64_t n, double scale, double offset = 0.0);
/// The stable argsort of u("perm/n", .).
std::vector<int64_t> permutation(int64_t n);

/// Directory of the golden files: the environment's VVTQ_GOLDENS, by default tests/goldens.
std::filesystem::path goldens_directory();
/// The goldens that come with the project, whatever VVTQ_GOLDENS says.
std::filesystem::path own_goldens_directory();
/// A file of goldens_directory(), or the project's own where that directory has none of this name.
std::filesystem::path golden_file(const std::string& name);
/// A golden file as JSON. Throws engine::Error naming the file where it cannot be read.
nlohmann::json read_golden(const std::filesystem::path& file);
/// The sizes of a rectangular JSON array of numbers.
engine::Shape shape_of(const nlohmann::json& array);
/// The numbers of a nested JSON array (or one number) in order.
std::vector<double> numbers(const nlohmann::json& array);
/// Largest |a_i - b_i| over the largest |b_i|. Infinite where sizes differ or a value is NaN.
double relative_error(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace vvtq::tests
