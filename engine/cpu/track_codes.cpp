// track_codes: which weights turn back to a code that they had just left, all weights in one pass.
#include <cmath>
#include <limits>

#include "engine/cpu/families.h"
#include "engine/cpu/parallel.h"
#include "engine/cpu/quantize.h"

namespace vvtq::engine::cpu {
namespace {

constexpr int kNone = static_cast<int>(CodeMark::none), kUp = static_cast<int>(CodeMark::up),
              kDown = static_cast<int>(CodeMark::down), kFrozen = static_cast<int>(CodeMark::frozen),
              kUnseen = static_cast<int>(CodeMark::unseen);

struct Chunk {
    const CodeTrackItem* item;
    int64_t begin, end;
};

struct Rates {
    float momentum, keep, threshold;
};

/// How q of a weight is computed; of one bit without a step.
template <typename T>
struct Coder {
    Step<T> step;
    T code(T x) const { return step.code(x); }
    int low() const { return static_cast<int>(step.low); }
};
template <typename T>
struct SignCoder {
    T code(T x) const { return x != x ? x : static_cast<T>((x > T{0}) - (x < T{0})); }
    int low() const { return -1; }
};

/// Weights of one step that follow one another. Codes come first, in a loop of its own: integers of 8 bits
/// beside floats keep it from being vectorized well.
template <bool Freezes, typename T, typename C>
void track_run(const T* w, const C& coder, const Rates& rates, int64_t n, uint8_t* code, uint8_t* mark,
               float* frequency, float* mean) {
    constexpr int64_t kTile = 1024;
    int now[kTile];
    const int low = coder.low();
    const float momentum = rates.momentum, keep = rates.keep, threshold = rates.threshold;
    for (int64_t begin = 0; begin < n; begin += kTile) {
        const int64_t count = std::min(kTile, n - begin);
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) {
            const T q = coder.code(w[begin + i]);
            now[i] = q == q ? static_cast<int>(q) - low : code[begin + i];
        }
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) {
            const int64_t at = begin + i;
            const int before = code[at], marked = mark[at];
            const bool frozen = marked == kFrozen, unseen = marked == kUnseen;
            int q = frozen ? before : now[i];
            int direction = q > before ? kUp : (q < before ? kDown : kNone);
            direction = unseen ? kNone : direction;
            const bool oscillates =
                (direction == kUp && marked == kDown) || (direction == kDown && marked == kUp);
            const float f = std::fma(keep, frequency[at], oscillates ? momentum : 0.0f);
            int next = direction != kNone ? direction : (unseen ? kNone : marked);
            if constexpr (Freezes) {
                const float value = static_cast<float>(q + low), old = mean[at];
                const float moved = unseen ? value : std::fma(momentum, value - old, old);
                const bool freezes = !frozen && f > threshold;
                q = freezes ? static_cast<int>(std::nearbyint(moved)) - low : q;
                next = freezes ? kFrozen : next;
                mean[at] = moved;
            }
            frequency[at] = f;
            code[at] = static_cast<uint8_t>(q);
            mark[at] = static_cast<uint8_t>(next);
        }
    }
}

/// w = a code of frozen weights, within the range.
template <typename T>
void center(T* w, const Step<T>& step, int64_t n, const uint8_t* code, const uint8_t* mark) {
    const int low = static_cast<int>(step.low);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const T middle = step.a * static_cast<T>(code[i] + low);
        const T inner = middle - middle * std::numeric_limits<T>::epsilon();
        const T kept = step.inside(step.scaled(middle)) ? middle : inner;
        w[i] = mark[i] == kFrozen ? kept : w[i];
    }
}

template <typename T>
void track(const Chunk& chunk, const Rates& rates) {
    const CodeTrackItem& item = *chunk.item;
    T* w = item.w.data<T>();
    uint8_t *code = item.code.data<uint8_t>(), *mark = item.mark.data<uint8_t>();
    float* frequency = item.frequency.data<float>();
    float* mean = item.mean.defined() ? item.mean.data<float>() : nullptr;
    const bool one_bit = !item.params.defined();
    const int64_t groups = one_bit ? 1 : item.params.groups(), inner = item.params.inner;
    int64_t end = 0;
    for (int64_t at = chunk.begin; at < chunk.end; at = end) {
        end = groups == 1 ? chunk.end : std::min(chunk.end, (at / inner + 1) * inner);
        const int64_t n = end - at;
        if (one_bit) {
            track_run<false>(w + at, SignCoder<T>{}, rates, n, code + at, mark + at, frequency + at, mean);
            continue;
        }
        const Step<T> step(item.params, groups == 1 ? 0 : at / inner % groups);
        const Coder<T> coder{step};
        if (mean == nullptr) {
            track_run<false>(w + at, coder, rates, n, code + at, mark + at, frequency + at, mean);
        } else {
            track_run<true>(w + at, coder, rates, n, code + at, mark + at, frequency + at, mean + at);
            center(w + at, step, n, code + at, mark + at);
        }
    }
}

}  // namespace

void track_codes(const std::vector<CodeTrackItem>& items, double momentum, Arg threshold, Arg found_inf) {
    for (const CodeTrackItem& item : items) check_track(item, threshold);
    check_size(found_inf, 1, DType::i32);
    if (*found_inf.data<int32_t>() != 0) return;
    const float most = threshold.defined() ? *threshold.data<float>() : 0.0f;
    const Rates rates{static_cast<float>(momentum), static_cast<float>(1.0 - momentum), most};
    std::vector<Chunk> chunks;
    for (const CodeTrackItem& item : items) {
        for (int64_t begin = 0; begin < item.w.numel(); begin += kChunk) {
            chunks.push_back({&item, begin, std::min(begin + kChunk, item.w.numel())});
        }
    }
    parallel_chunks(static_cast<int64_t>(chunks.size()), 1, [&](int64_t c, int64_t, int64_t) {
        const Chunk& chunk = chunks[static_cast<size_t>(c)];
        with_floating(chunk.item->w.dtype(), [&]<typename T>() { track<T>(chunk, rates); });
    });
}

void clear_frozen(const std::vector<FrozenItem>& items) {
    for (const FrozenItem& item : items) {
        check_size(item.mark, item.gradient.numel(), DType::u8);
        with_floating(item.gradient.dtype(), [&]<typename T>() {
            T* g = item.gradient.data<T>();
            const uint8_t* mark = item.mark.data<uint8_t>();
            parallel_chunks(item.gradient.numel(), kChunk, [&](int64_t, int64_t begin, int64_t end) {
#pragma omp simd
                for (int64_t i = begin; i < end; ++i) g[i] = mark[i] == kFrozen ? T{0} : g[i];
            });
        });
    }
}

}  // namespace vvtq::engine::cpu
