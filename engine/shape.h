// shape: the sizes of a tensor's dimensions, outermost first.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace vvtq::engine {

/// Up to kMaxRank sizes, each >= 0, in row-major order. Rank 0 is a scalar with one element.
class Shape {
  public:
    static constexpr int kMaxRank = 6;

    Shape() = default;
    Shape(std::initializer_list<int64_t> sizes);
    explicit Shape(const std::vector<int64_t>& sizes);

    int rank() const { return rank_; }
    /// Size of dimension i; negative i counts from the end. Throws where i is out of range.
    int64_t operator[](int i) const;
    /// Product of all sizes.
    int64_t numel() const;
    /// Product of all sizes but the last: the rows of the tensor seen as a matrix. Throws at rank 0.
    int64_t rows() const;
    /// The last size. Throws at rank 0.
    int64_t cols() const { return (*this)[-1]; }
    /// "(2, 197, 192)".
    std::string str() const;
    std::vector<int64_t> vec() const { return {sizes_, sizes_ + rank_}; }

    bool operator==(const Shape& other) const;

  private:
    int64_t sizes_[kMaxRank] = {};
    int rank_ = 0;
};

}  // namespace vvtq::engine
