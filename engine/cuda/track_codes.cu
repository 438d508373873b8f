// track_codes: which weights turn back to a code that they had just left, all weights in one launch.
#include "engine/cuda/families.h"
#include "engine/cuda/passes.cuh"

namespace vvtq::engine::cuda {
namespace {

constexpr int64_t kPiece = 4096;  // elements of one block
constexpr int kItems = 256;       // of one launch: a kernel's arguments hold 32,764 bytes
constexpr int kFour = 4;          // elements a thread takes at once
constexpr int kUp = static_cast<int>(CodeMark::up), kDown = static_cast<int>(CodeMark::down),
              kNone = static_cast<int>(CodeMark::none), kFrozen = static_cast<int>(CodeMark::frozen),
              kUnseen = static_cast<int>(CodeMark::unseen);

struct Tracked {
    float* w;
    QuantArgument quantizer;  // without scale: one bit
    uint8_t *code, *mark;
    float *frequency, *mean;
    int64_t numel, inner;
    int groups;
    bool wide;  // four elements are one access
};

struct Tracks {
    int count = 0;
    int first_block[kItems + 1];
    Tracked at[kItems];
};
static_assert(sizeof(Tracks) <= 32'600);

struct Frozen {
    float* gradient;
    const uint8_t* mark;
    int64_t numel;
};

struct Frozens {
    int count = 0;
    int first_block[kItems + 1];
    Frozen at[kItems];
};

/// What a weight carries from step to step.
struct State {
    float w, frequency, mean;
    uint8_t code, mark;
};

/// The equations of the entry, as engine/cpu/track_codes.cpp computes them, bit for bit.
template <bool Freezes>
__device__ void track(State& s, const Step& step, float momentum, float keep, float threshold) {
    const int low = step.on ? static_cast<int>(step.low) : -1;
    const int before = s.code, marked = s.mark;
    const bool frozen = marked == kFrozen, unseen = marked == kUnseen;
    const float sign = s.w != s.w ? s.w : static_cast<float>((s.w > 0.0f) - (s.w < 0.0f));
    const float value = step.on ? step.code(s.w) : sign;
    int q = frozen || value != value ? before : static_cast<int>(value) - low;
    int direction = q > before ? kUp : (q < before ? kDown : kNone);
    direction = unseen ? kNone : direction;
    const bool oscillates = (direction == kUp && marked == kDown) || (direction == kDown && marked == kUp);
    s.frequency = __fmaf_rn(keep, s.frequency, oscillates ? momentum : 0.0f);
    int next = direction != kNone ? direction : (unseen ? kNone : marked);
    if constexpr (Freezes) {
        const float now = static_cast<float>(q + low);
        s.mean = unseen ? now : __fmaf_rn(momentum, __fsub_rn(now, s.mean), s.mean);
        if (!frozen && s.frequency > threshold) {
            q = static_cast<int>(rintf(s.mean)) - low;
            next = kFrozen;
        }
        if (next == kFrozen) {
            const float middle = __fmul_rn(step.a, static_cast<float>(q + low));
            const float inner = __fsub_rn(middle, __fmul_rn(middle, 0x1p-23f));  // by 1 or 2 units
            s.w = step.inside(step.scaled(middle)) ? middle : inner;
        }
    }
    s.code = static_cast<uint8_t>(q);
    s.mark = static_cast<uint8_t>(next);
}

template <bool Freezes>
__device__ void track_item(const Tracked& item, int64_t begin, float momentum, float keep, float threshold) {
    const Step whole = item.quantizer.load();
    const auto step_at = [&](int64_t i) {
        return item.groups == 1 ? whole : item.quantizer.load(static_cast<int>(i / item.inner % item.groups));
    };
    const int64_t end = min(item.numel, begin + kPiece);
    const int64_t packed = item.wide ? begin + (end - begin) / kFour * kFour : begin;
    for (int64_t i = begin + int64_t{threadIdx.x} * kFour; i < packed; i += kPassThreads * kFour) {
        Pack<float, kFour> w = load<kFour>(item.w + i), frequency = load<kFour>(item.frequency + i),
                           mean = {};
        if constexpr (Freezes) mean = load<kFour>(item.mean + i);
        Pack<uint8_t, kFour> code = load<kFour>(item.code + i), mark = load<kFour>(item.mark + i);
#pragma unroll
        for (int k = 0; k < kFour; ++k) {
            State s{w.at[k], frequency.at[k], mean.at[k], code.at[k], mark.at[k]};
            track<Freezes>(s, step_at(i + k), momentum, keep, threshold);
            w.at[k] = s.w;
            frequency.at[k] = s.frequency;
            mean.at[k] = s.mean;
            code.at[k] = s.code;
            mark.at[k] = s.mark;
        }
        store(item.frequency + i, frequency);
        store(item.code + i, code);
        store(item.mark + i, mark);
        if constexpr (Freezes) {
            store(item.w + i, w);
            store(item.mean + i, mean);
        }
    }
    for (int64_t i = packed + threadIdx.x; i < end; i += kPassThreads) {
        State s{item.w[i], item.frequency[i], Freezes ? item.mean[i] : 0.0f, item.code[i], item.mark[i]};
        track<Freezes>(s, step_at(i), momentum, keep, threshold);
        item.frequency[i] = s.frequency;
        item.code[i] = s.code;
        item.mark[i] = s.mark;
        if constexpr (Freezes) {
            item.w[i] = s.w;
            item.mean[i] = s.mean;
        }
    }
}

__global__ void __launch_bounds__(kPassThreads)
    track_kernel(const __grid_constant__ Tracks tracks, float momentum, float keep, const float* threshold,
                 const int32_t* found_inf) {
    if (*found_inf != 0) return;
    const int i = item_of_block(tracks.first_block, tracks.count);
    const Tracked& item = tracks.at[i];
    const int64_t begin = int64_t{static_cast<int>(blockIdx.x) - tracks.first_block[i]} * kPiece;
    if (item.mean != nullptr) {
        track_item<true>(item, begin, momentum, keep, *threshold);
    } else {
        track_item<false>(item, begin, momentum, keep, 0.0f);
    }
}

__global__ void __launch_bounds__(kPassThreads) clear_kernel(const __grid_constant__ Frozens frozens) {
    const int item = item_of_block(frozens.first_block, frozens.count);
    const Frozen& at = frozens.at[item];
    const int64_t begin = int64_t{static_cast<int>(blockIdx.x) - frozens.first_block[item]} * kPiece;
    const int64_t end = min(at.numel, begin + kPiece);
    for (int64_t i = begin + threadIdx.x; i < end; i += kPassThreads) {
        if (at.mark[i] == kFrozen) at.gradient[i] = 0.0f;
    }
}

/// f(table, blocks) for tables of all items that are not empty; entry_of(item) fills a table's place.
template <typename Table, typename Item, typename E, typename F>
void for_each_table(const std::vector<Item>& items, const E& entry_of, const F& f) {
    Table table;
    const auto flush = [&] {
        if (table.count > 0) f(table, static_cast<unsigned>(table.first_block[table.count]));
        table.count = 0;
    };
    table.first_block[0] = 0;
    for (const Item& item : items) {
        const auto entry = entry_of(item);
        if (entry.numel == 0) continue;
        const int i = table.count++;
        table.at[i] = entry;
        table.first_block[i + 1] = table.first_block[i] + static_cast<int>(ceil_div(entry.numel, kPiece));
        if (table.count == kItems) flush();
    }
    flush();
}

}  // namespace

void track_codes(const std::vector<CodeTrackItem>& items, double momentum, Arg threshold, Arg found_inf) {
    check_size(found_inf, 1, DType::i32);
    const auto entry_of = [&](const CodeTrackItem& item) {
        check_track(item, threshold);
        const int64_t groups = item.params.defined() ? item.params.groups() : 1;
        const bool wide =
            aligned(16, item.w, item.frequency, item.mean) && aligned(kFour, item.code, item.mark);
        return Tracked{pointer<float>(item.w),
                       argument_of(item.params, groups),
                       pointer<uint8_t>(item.code),
                       pointer<uint8_t>(item.mark),
                       pointer<float>(item.frequency),
                       pointer<float>(item.mean),
                       item.w.numel(),
                       item.params.inner,
                       static_cast<int>(groups),
                       wide};
    };
    for_each_table<Tracks>(items, entry_of, [&](const Tracks& tracks, unsigned blocks) {
        launch(track_kernel, blocks, kPassThreads, 0, tracks, static_cast<float>(momentum),
               static_cast<float>(1.0 - momentum), pointer<float>(threshold), pointer<int32_t>(found_inf));
    });
}

void clear_frozen(const std::vector<FrozenItem>& items) {
    const auto entry_of = [](const FrozenItem& item) {
        check_size(item.mark, item.gradient.numel(), DType::u8);
        return Frozen{pointer<float>(item.gradient), pointer<uint8_t>(item.mark), item.mark.numel()};
    };
    for_each_table<Frozens>(items, entry_of, [&](const Frozens& frozens, unsigned blocks) {
        launch(clear_kernel, blocks, kPassThreads, 0, frozens);
    });
}

}  // namespace vvtq::engine::cuda
