// Grids of positions, against torch's interpolate (mode bicubic, align_corners false).
#include "nn/position_grid.h"

#include <cmath>

#include "engine/check.h"
#include "tests/catch.h"

using namespace vvtq;

namespace {

std::vector<double> some_values(size_t count) {
    std::vector<double> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = static_cast<double>((7 * i) % 11) / 4 - 1;
    return values;
}

void check_begins(const std::vector<double>& values, const std::vector<double>& expected) {
    REQUIRE(values.size() >= expected.size());
    for (size_t i = 0; i < expected.size(); ++i) CHECK(std::abs(values[i] - expected[i]) < 1e-11);
}

}  // namespace

TEST_CASE("positions are resized as torch does") {
    const nn::PositionGrid sharp{}, smooth{.antialias = true};
    check_begins(
        nn::resize_positions(some_values(18), {1, 9, 2}, sharp, 5),
        {-1.313344, 0.726, -0.876568, 1.233, -0.202, 1.548, 0.330008, 0.378, 0.62, -0.644, -0.04156});
    check_begins(nn::resize_positions(some_values(50), {25, 2}, sharp, 3),
                 {-0.498199588477, 0.442644032922, 0.912037037037, -0.240740740741, -0.148576817558});
    check_begins(nn::resize_positions(some_values(18), {1, 9, 2}, smooth, 5),
                 {-1.242079031684, 0.731132075472, -0.867537313433, 1.140347789355, -0.212264150943});
    check_begins(nn::resize_positions(some_values(50), {25, 2}, smooth, 3),
                 {-0.258402366864, 0.311538461538, 0.738336314848, 0.323756708408, 0.01798816568});
    CHECK(nn::resize_positions(some_values(16), {1, 16, 1}, smooth, 4) == some_values(16));
}

TEST_CASE("rows in front stay, and channels may come first") {
    std::vector<double> values = some_values(18);
    const nn::PositionGrid rows{.before = 1, .antialias = true};
    values.insert(values.begin(), {100, 200});
    const std::vector<double> resized = nn::resize_positions(values, {1, 10, 2}, rows, 5);
    CHECK(resized.size() == 52);
    check_begins(resized, {100, 200, -1.242079031684, 0.731132075472, -0.867537313433});
    // the same values with the channels first
    std::vector<double> planes(18);
    for (size_t i = 0; i < 9; ++i) {
        for (size_t c = 0; c < 2; ++c) planes[c * 9 + i] = values[2 + 2 * i + c];
    }
    const std::vector<double> first =
        nn::resize_positions(planes, {1, 2, 3, 3}, {.rows = false, .antialias = true}, 5);
    REQUIRE(first.size() == 50);
    for (size_t i = 0; i < 25; ++i) {
        for (size_t c = 0; c < 2; ++c) CHECK(std::abs(first[c * 25 + i] - resized[2 + 2 * i + c]) < 1e-14);
    }
}

TEST_CASE("the side of a grid comes from the shape") {
    CHECK(nn::PositionGrid{.before = 1}.side({1, 197, 192}) == 14);
    CHECK(nn::PositionGrid{}.side({169, 3}) == 13);
    CHECK(nn::PositionGrid{}.side({170, 3}) == 0);
    CHECK(nn::PositionGrid{.before = 2}.side({1, 1, 8}) == 0);
    CHECK(nn::PositionGrid{.rows = false}.side({1, 64, 28, 28}) == 28);
    CHECK(nn::PositionGrid{.rows = false}.side({1, 64, 28, 27}) == 0);
    CHECK(nn::PositionGrid{}.side({}) == 0);
}
