// training: what a step needs beside the model: draws, clipping, and noticing what is not finite.
#include <cmath>

#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"
#include "engine/random.h"

namespace vvtq::engine::cpu {

void stochastic_depth(Arg key, Arg rates, Arg places, Arg keep) {
    check_size(key, 1, DType::i64);
    const int64_t rows = rates.numel(), samples = keep.shape().cols();
    check_size(keep, rows * samples, keep.dtype());
    if (places.defined()) check_size(places, samples, DType::i32);
    const auto seed = static_cast<uint64_t>(*key.data<int64_t>());
    with_floating(keep.dtype(), [&]<typename T>() {
        for (int64_t r = 0; r < rows; ++r) {
            const double rate = rates.data<double>()[r];
            for (int64_t b = 0; b < samples; ++b) {
                const int64_t place = places.defined() ? places.data<int32_t>()[b] : b;
                Random random(mix_key({seed, static_cast<uint64_t>(r), static_cast<uint64_t>(place)}));
                keep.data<T>()[r * samples + b] =
                    random.uniform() < rate ? T{0} : static_cast<T>(1.0 / (1.0 - rate));
            }
        }
    });
}

void clip_gradients(const std::vector<AdamwItem>& items, double most, Arg schedule, Arg found_inf) {
    check_size(schedule, 4, DType::f64);
    check_size(found_inf, 1, DType::i32);
    double total = 0;
    for (const AdamwItem& item : items) {
        const Tensor squares(Shape{1}, DType::f64);
        sum_squares(item.g, squares);
        total += *squares.data<double>();
    }
    const double norm = std::sqrt(total);
    schedule.data<double>()[3] = std::isfinite(norm) && most > 0 && norm > most ? most / norm : 1.0;
    auto& found = *found_inf.data<int32_t>();
    if (!std::isfinite(norm) && found == 0) found = 4;
}

void find_not_finite(Arg x, Arg found_inf) {
    check_size(found_inf, 1, DType::i32);
    const Tensor bad(Shape{1}, DType::i64);
    count_not_finite(x, bad);
    if (*bad.data<int64_t>() != 0) *found_inf.data<int32_t>() |= 1;
}

}  // namespace vvtq::engine::cpu
