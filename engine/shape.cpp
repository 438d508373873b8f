#include "engine/shape.h"

#include <algorithm>
#include <limits>

#include "engine/check.h"

namespace vvtq::engine {

Shape::Shape(std::initializer_list<int64_t> sizes) : Shape(std::vector<int64_t>(sizes)) {}

Shape::Shape(const std::vector<int64_t>& sizes) {
    VVTQ_CHECK(sizes.size() <= kMaxRank, "rank ", sizes.size(), " is above ", int{kMaxRank});
    int64_t n = 1;
    for (int64_t size : sizes) {
        VVTQ_CHECK(size >= 0, "negative size ", size);
        VVTQ_CHECK(size == 0 || n <= std::numeric_limits<int64_t>::max() / 16 / size, "too many elements");
        n *= size;
        sizes_[rank_++] = size;
    }
}

int64_t Shape::operator[](int i) const {
    const int at = i < 0 ? i + rank_ : i;
    VVTQ_CHECK(at >= 0 && at < rank_, "dimension ", i, " of rank ", rank_);
    return sizes_[at];
}

int64_t Shape::numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= sizes_[i];
    return n;
}

int64_t Shape::rows() const {
    VVTQ_CHECK(rank_ > 0, "a scalar has no rows");
    int64_t n = 1;
    for (int i = 0; i + 1 < rank_; ++i) n *= sizes_[i];
    return n;
}

std::string Shape::str() const {
    std::string out = "(";
    for (int i = 0; i < rank_; ++i) out += (i ? ", " : "") + std::to_string(sizes_[i]);
    return out + ")";
}

bool Shape::operator==(const Shape& other) const {
    return rank_ == other.rank_ && std::equal(sizes_, sizes_ + rank_, other.sizes_);
}

}  // namespace vvtq::engine
