// head_lsq: LSQ with one step for each attention head, of activations and of the projections' weights.
#pragma once

#include "quant/lsq.h"

namespace vvtq::quant {

/// As Lsq, with alpha (heads): head h's values are quantized with alpha_h. Which values are head h's:
///   x (B, N, heads D)                                  columns hD..(h+1)D
///   x (B, heads, N, M)                                 index h
///   weight (O, C), `columns` off: a projection to heads    rows h O / heads .. (h + 1) O / heads
///   weight (O, C), `columns` on: one that reads heads      columns h C / heads .. (h + 1) C / heads
/// Gradient scale of all steps: 1 / sqrt(sum |x| / heads Qp), the sum over the whole tensor (specification
/// section 1). No offset.
class HeadLsq : public nn::Quantizer {
  public:
    /// Throws Error(Fault::internal) for bits outside 2..8, an offset or no heads.
    HeadLsq(const LsqOptions& options, int64_t heads, bool columns = false);

    /// x of one of the shapes above -> the same shape. Raises steps to engine::kLeastStep where training has
    /// brought them lower.
    nn::Variable operator()(const nn::Variable& x) override;

    /// Sets the steps, head by head, where they have no start value yet: as Lsq::start_from.
    void start_from(const nn::Tensor& x);
    /// Forgets the steps: the next x sets them again.
    void recalibrate() { ready_ = false; }
    /// Called after parameters were loaded from a file.
    void mark_ready() { ready_ = true; }
    const nn::Variable& alpha() const { return *alpha_; }
    int64_t heads() const { return heads_; }

  private:
    /// Values of a head that follow one another in x.
    int64_t inner(const engine::Shape& x) const;

    LsqOptions options_;
    engine::CodeRange range_;
    int64_t heads_;
    bool columns_;
    nn::Variable* alpha_;
    bool ready_ = false;
};

}  // namespace vvtq::quant
