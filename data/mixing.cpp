#include "data/mixing.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "data/bytes.h"
#include "data/normalization.h"
#include "engine/check.h"

namespace vvtq::data {
namespace {

// A normal number of the normalized picture as a byte of channel c.
uint8_t normal_byte(double normal, size_t c) {
    const Normalization n;
    return static_cast<uint8_t>(
        std::clamp(std::nearbyint(255.0 * (n.mean[c] + n.std[c] * normal)), 0.0, 255.0));
}

// Such bytes by 12 bits of a uniform number: 4096 quantiles of the normal distribution.
class NormalBytes {
  public:
    static constexpr int kBits = 12;
    NormalBytes() {
        for (size_t c = 0; c < 3; ++c) {
            for (size_t i = 0; i < table_[c].size(); ++i) {
                table_[c][i] = normal_byte(quantile((static_cast<double>(i) + 0.5) / (1 << kBits)), c);
            }
        }
    }
    uint8_t at(size_t c, uint32_t bits) const { return table_[c][bits & ((1 << kBits) - 1)]; }

  private:
    // Bisection of the distribution function.
    static double quantile(double p) {
        double low = -8, high = 8;
        for (int i = 0; i < 60; ++i) {
            const double middle = (low + high) / 2;
            (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
        }
        return low;
    }
    std::array<std::array<uint8_t, 1 << kBits>, 3> table_;
};

double gamma_draw(engine::Random& random, double alpha) {  // Marsaglia and Tsang
    if (alpha < 1) return gamma_draw(random, alpha + 1) * std::pow(1.0 - random.uniform(), 1.0 / alpha);
    const double d = alpha - 1.0 / 3.0, c = 1.0 / std::sqrt(9.0 * d);
    while (true) {
        const double x = random.normal();
        const double v = (1 + c * x) * (1 + c * x) * (1 + c * x);
        if (v > 0 && std::log(1.0 - random.uniform()) < 0.5 * x * x + d - d * v + d * std::log(v))
            return d * v;
    }
}

double beta_draw(engine::Random& random, double alpha) {
    const double a = gamma_draw(random, alpha), b = gamma_draw(random, alpha);
    return a + b > 0 ? a / (a + b) : 0.5;
}

int below(engine::Random& random, int n) { return static_cast<int>(random.below(static_cast<uint64_t>(n))); }

void mix_pair(const Mix& first, const Mix& second, int side, uint8_t* a, uint8_t* b, Bytes& scratch) {
    const auto n = static_cast<size_t>(side);
    const auto blend = [&](const Mix& mix, uint8_t* own, const uint8_t* partner) {
        if (mix.share == 1.0) return;
        if (!mix.cut) {
            const auto share = static_cast<float>(mix.share);
            for (size_t i = 0; i < 3 * n * n; ++i) {
                own[i] = static_cast<uint8_t>(share * own[i] + (1.0F - share) * partner[i] + 0.5F);
            }
            return;
        }
        for (size_t c = 0; c < 3; ++c) {
            for (int y = mix.top; y < mix.bottom; ++y) {
                const size_t at = (c * n + static_cast<size_t>(y)) * n + static_cast<size_t>(mix.left);
                std::memmove(own + at, partner + at, static_cast<size_t>(mix.right - mix.left));
            }
        }
    };
    scratch.assign(a, a + 3 * n * n);
    blend(first, a, b);
    if (a != b) blend(second, b, scratch.data());
}

}  // namespace

EraseMode parse_erase_mode(const std::string& text) {
    if (text == "const") return EraseMode::constant;
    if (text == "rand") return EraseMode::color;
    if (text == "pixel") return EraseMode::pixel;
    engine::input_error("`erase_mode` ", printable(text), ": use const, rand or pixel");
}

MixMode parse_mix_mode(const std::string& text) {
    if (text == "batch") return MixMode::batch;
    if (text == "pair") return MixMode::pair;
    if (text == "elem") return MixMode::elem;
    engine::input_error("`mixup_mode` ", printable(text), ": use batch, pair or elem");
}

void erase(const Erasing& erasing, engine::Random& random, int side, uint8_t* planes) {
    if (!(random.uniform() < erasing.probability)) return;
    constexpr double kLeastArea = 0.02, kMostArea = 1.0 / 3.0, kLeastAspect = 0.3;
    constexpr int kTries = 10;
    static const NormalBytes normals;
    const auto n = static_cast<size_t>(side);
    const int count = 1 + below(random, erasing.count);
    for (int i = 0; i < count; ++i) {
        for (int attempt = 0; attempt < kTries; ++attempt) {
            const double area = random.uniform(kLeastArea, kMostArea) * side * side / count;
            const double aspect = std::exp(random.uniform(std::log(kLeastAspect), -std::log(kLeastAspect)));
            const int h = static_cast<int>(std::nearbyint(std::sqrt(area * aspect)));
            const int w = static_cast<int>(std::nearbyint(std::sqrt(area / aspect)));
            if (h >= side || w >= side) continue;
            const int top = below(random, side - h + 1), left = below(random, side - w + 1);
            for (size_t c = 0; c < 3; ++c) {
                const uint8_t color =
                    normal_byte(erasing.mode == EraseMode::color ? random.normal() : 0.0, c);
                for (int y = top; y < top + h; ++y) {
                    uint8_t* row = planes + (c * n + static_cast<size_t>(y)) * n + left;
                    if (erasing.mode == EraseMode::pixel) {
                        uint32_t bits = 0;
                        for (int x = 0; x < w; ++x, bits >>= NormalBytes::kBits) {
                            if (x % 2 == 0) bits = random.bits();
                            row[x] = normals.at(c, bits);
                        }
                    } else {
                        std::fill(row, row + w, color);
                    }
                }
            }
            break;
        }
    }
}

Mix draw_mix(const Mixing& mixing, engine::Random& random, int side) {
    Mix mix;
    if (!(random.uniform() < mixing.probability)) return mix;
    const bool can_cut = mixing.cutmix > 0 || !mixing.cutmix_minmax.empty();
    mix.cut = can_cut && (mixing.mixup <= 0 || random.uniform() < mixing.switch_probability);
    mix.share = beta_draw(random, !mix.cut ? mixing.mixup : mixing.cutmix > 0 ? mixing.cutmix : 1.0);
    if (!mix.cut) return mix;
    if (!mixing.cutmix_minmax.empty()) {
        const auto length = [&] {
            return static_cast<int>(side * random.uniform(mixing.cutmix_minmax[0], mixing.cutmix_minmax[1]));
        };
        const int h = length(), w = length();
        mix.top = below(random, side - h + 1);
        mix.left = below(random, side - w + 1);
        mix.bottom = mix.top + h;
        mix.right = mix.left + w;
    } else {
        const int half = static_cast<int>(side * std::sqrt(1.0 - mix.share)) / 2;
        const int y = below(random, side), x = below(random, side);
        mix.top = std::clamp(y - half, 0, side);
        mix.bottom = std::clamp(y + half, 0, side);
        mix.left = std::clamp(x - half, 0, side);
        mix.right = std::clamp(x + half, 0, side);
    }
    const double area = static_cast<double>(mix.bottom - mix.top) * (mix.right - mix.left);
    mix.share = 1.0 - area / (static_cast<double>(side) * side);
    return mix;
}

std::vector<Mix> draw_mixes(const Mixing& mixing, engine::Random& random, int side, size_t count) {
    std::vector<Mix> mixes(count);
    for (size_t i = 0; i < count; ++i) {
        const bool drawn =
            mixing.mode == MixMode::elem || (mixing.mode == MixMode::pair ? i <= count - 1 - i : i == 0);
        mixes[i] =
            drawn ? draw_mix(mixing, random, side) : mixes[mixing.mode == MixMode::pair ? count - 1 - i : 0];
    }
    return mixes;
}

void mix_batch(std::span<const Mix> mixes, int side, double smoothing, int classes,
               std::span<const int> targets, std::span<uint8_t> planes, std::span<float> soft) {
    const size_t count = targets.size();
    const size_t size = size_t{3} * static_cast<size_t>(side) * static_cast<size_t>(side);
    const auto width = static_cast<size_t>(classes);
    VVTQ_CHECK(mixes.size() == count && planes.size() == count * size && soft.size() == count * width,
               mixes.size(), " mixes, ", planes.size(), " pixels, ", soft.size(), " probabilities");
    Bytes scratch;
    for (size_t i = 0; i <= count - 1 - i; ++i) {
        const size_t j = count - 1 - i;
        mix_pair(mixes[i], mixes[j], side, planes.data() + i * size, planes.data() + j * size, scratch);
        if (j == 0) break;
    }
    const double rest = smoothing / classes;
    std::fill(soft.begin(), soft.end(), static_cast<float>(rest));
    for (size_t i = 0; i < count; ++i) {
        float* row = soft.data() + i * width;
        const double share = mixes[i].share;
        row[targets[i]] += static_cast<float>((1.0 - smoothing) * share);
        row[targets[count - 1 - i]] += static_cast<float>((1.0 - smoothing) * (1.0 - share));
    }
}

}  // namespace vvtq::data
