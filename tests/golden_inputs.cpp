#include "tests/golden_inputs.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <numeric>

namespace vvtq::tests {
namespace {

uint64_t fnv1a64(const std::string& text) {
    uint64_t h = 0xCBF29CE484222325;
    for (const char c : text) {
        h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3;
    }
    return h;
}

uint64_t splitmix64(uint64_t z) {
    z += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

}  // namespace

std::vector<double> uniform01(const std::string& name, int64_t n) {
    const uint64_t start = fnv1a64(name);
    std::vector<double> u(static_cast<size_t>(n));
    for (size_t i = 0; i < u.size(); ++i) {
        u[i] = static_cast<double>(splitmix64(start + i) >> 40) / (1 << 24);
    }
    return u;
}

std::vector<double> fill(const std::string& name, int64_t n, double scale, double offset) {
    std::vector<double> values = uniform01(name, n);
    for (double& value : values) {
        value = offset + scale * (2.0 * value - 1.0);
    }
    return values;
}

std::vector<int64_t> permutation(int64_t n) {
    const std::vector<double> u = uniform01("perm/" + std::to_string(n), n);
    std::vector<int64_t> order(u.size());
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(), [&u](int64_t a, int64_t b) {
        return u[static_cast<size_t>(a)] < u[static_cast<size_t>(b)];
    });
    return order;
}

std::filesystem::path own_goldens_directory() {
    return std::filesystem::path(VVTQ_SOURCE_DIR) / "tests" / "goldens";
}

std::filesystem::path goldens_directory() {
    const char* directory = std::getenv("VVTQ_GOLDENS");
    return directory != nullptr ? std::filesystem::path(directory) : own_goldens_directory();
}

std::filesystem::path golden_file(const std::string& name) {
    const std::filesystem::path named = goldens_directory() / name;
    return std::filesystem::exists(named) ? named : own_goldens_directory() / name;
}

nlohmann::json read_golden(const std::filesystem::path& file) {
    std::ifstream in(file);
    nlohmann::json content = nlohmann::json::parse(in, nullptr, false);
    if (!in || content.is_discarded()) {
        engine::input_error(file.string(),
                            ": cannot be read as JSON; set VVTQ_GOLDENS to the goldens' directory");
    }
    return content;
}

engine::Shape shape_of(const nlohmann::json& array) {
    std::vector<int64_t> sizes;
    for (const nlohmann::json* level = &array; level->is_array(); level = &level->front()) {
        sizes.push_back(static_cast<int64_t>(level->size()));
        if (level->empty()) {
            break;
        }
    }
    return engine::Shape(sizes);
}

std::vector<double> numbers(const nlohmann::json& array) {
    if (!array.is_array()) {
        return {array.get<double>()};
    }
    std::vector<double> all;
    for (const auto& element : array) {
        const std::vector<double> part = numbers(element);
        all.insert(all.end(), part.begin(), part.end());
    }
    return all;
}

double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
    constexpr double inf = std::numeric_limits<double>::infinity();
    if (a.size() != b.size()) {
        return inf;
    }
    double difference = 0;
    double largest = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        if (!std::isfinite(a[i]) || !std::isfinite(b[i])) {
            return inf;
        }
        difference = std::max(difference, std::abs(a[i] - b[i]));
        largest = std::max(largest, std::abs(b[i]));
    }
    return difference == 0 ? 0 : difference / largest;
}

}  // namespace vvtq::tests
