// mixing: random erasing, mixup and cutmix on a batch's 8-bit planes, by timm's rules.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/random.h"

namespace vvtq::data {

enum class EraseMode { constant, color, pixel };  ///< "const" the mean, "rand" one color, "pixel" noise
enum class MixMode { batch, pair, elem };         ///< who shares a draw

/// Errors: input_error naming `erase_mode`, `mixup_mode`.
EraseMode parse_erase_mode(const std::string& text);
MixMode parse_mix_mode(const std::string& text);

struct Erasing {
    double probability = 0.0;
    EraseMode mode = EraseMode::pixel;
    int count = 1;  ///< largest number of rectangles, which share an area of 2 % to a third of the picture
};

/// planes: (3, side, side). Normal colors of the normalized picture are rounded to its 8 bits.
void erase(const Erasing& erasing, engine::Random& random, int side, uint8_t* planes);

struct Mixing {
    double mixup = 0.0;   ///< alpha of Beta(alpha, alpha); 0: none
    double cutmix = 0.0;  ///< likewise
    double probability = 1.0;
    double switch_probability = 0.5;  ///< of cutmix, where both are on
    MixMode mode = MixMode::batch;
    std::vector<double> cutmix_minmax{};  ///< share of the sides, low and high; empty: from the draw
    bool active() const { return mixup > 0 || cutmix > 0 || !cutmix_minmax.empty(); }
};

/// How a picture is mixed with its partner: all of it, weighted, or a rectangle of the partner's.
struct Mix {
    double share = 1.0;  ///< of the picture itself
    bool cut = false;
    int top = 0, left = 0, bottom = 0, right = 0;
};

Mix draw_mix(const Mixing& mixing, engine::Random& random, int side);
/// Those of the pictures of a batch.
std::vector<Mix> draw_mixes(const Mixing& mixing, engine::Random& random, int side, size_t count);

/// Mixes picture i with picture B - 1 - i, both as they were. mixes: (B); planes: (B, 3, side, side);
/// targets: (B); soft: (B, C) becomes share * t(i) + (1 - share) * t(B - 1 - i), with t(i) one-hot smoothed:
/// smoothing / C everywhere and 1 - smoothing more at the class.
void mix_batch(std::span<const Mix> mixes, int side, double smoothing, int classes,
               std::span<const int> targets, std::span<uint8_t> planes, std::span<float> soft);

}  // namespace vvtq::data
