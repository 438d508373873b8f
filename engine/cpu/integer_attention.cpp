// integer_attention: attention on 8-bit codes, a few query rows of a head at a time: their scores, softmax,
// probabilities' codes and output stay in the cache.
#include <vector>

#include "engine/cpu/code_tiles.h"
#include "engine/cpu/families.h"
#include "engine/cpu/rows.h"

namespace vvtq::engine::cpu {
namespace {

constexpr int64_t kQueries = 24;  // of a task

/// Codes of q, k and v, (B N, 3C) one after the other as in z.
Tensor projected_codes(Arg x, Arg packed, const AttentionProblem& problem) {
    const int64_t rows = x.shape().rows(), channels = x.shape().cols(), width = 3 * channels;
    const Tensor codes({rows, width}, DType::i8);
    auto* out = codes.data<int8_t>();
    const float of_input = problem.input_scale.defined() ? *problem.input_scale.data<float>() : 1.0f;
    float factors[3];
    const float* biases[3];
    for (size_t t = 0; t < 3; ++t) {
        const Tensor& scale = problem.weight_scale[t];
        factors[t] = of_input * (scale.defined() ? *scale.data<float>() : 1.0f);
        biases[t] = problem.bias[t].defined() ? problem.bias[t].data<float>() : nullptr;
    }
    const Step<float> steps[3] = {Step<float>(problem.q), Step<float>(problem.k), Step<float>(problem.v)};
    const CodeLayout layout{width, channels};
    for_each_code_tile(code_rows(x), rows, packed.data<int8_t>(), layout, [&](const CodeTile& tile) {
        alignas(64) float values[kTileColumns];
        const int64_t end = tile.column + tile.columns;
        for (int64_t begin = tile.column; begin < end;) {
            const int64_t t = begin / channels, n = std::min(end, (t + 1) * channels) - begin;
            const float* bias = biases[t] == nullptr ? nullptr : biases[t] + begin - t * channels;
            for (int64_t r = 0; r < tile.rows; ++r) {
                affine_row(tile.row(r) + begin - tile.column, factors[t], bias, n, values);
                codes_row(values, steps[t], n, out + (tile.first + r) * width + begin);
            }
            begin += n;
        }
    });
    return codes;
}

/// What all heads share.
struct Heads {
    const AttentionProblem& problem;
    AttentionSizes sizes;
    const int8_t* codes;  // of q, k, v
    int64_t all_tokens;   // of a sample
    CodeLayout keys, values;
    float of_scores, of_outputs, factor;
    Step<float> step;  // of the probabilities

    Heads(Arg qkv, const AttentionProblem& of)
        : problem(of),
          sizes(qkv, of),
          codes(qkv.data<int8_t>()),
          all_tokens(qkv.shape()[1]),
          keys{sizes.tokens, sizes.width},
          values{sizes.width, sizes.tokens},
          of_scores(*of.q.scale.data<float>() * *of.k.scale.data<float>()),
          of_outputs(*of.probability.scale.data<float>() * *of.v.scale.data<float>()),
          factor(static_cast<float>(of.scale)),
          step(of.probability) {}

    /// Where token n of group b lies among all rows.
    int64_t row(int64_t b, int64_t n) const {
        const int64_t at = b % problem.groups * sizes.tokens + n;
        const int64_t in_sample = problem.order.defined() ? problem.order.data<int32_t>()[at] : at;
        return b / problem.groups * all_tokens + in_sample;
    }
    /// Head h of q (part 0), k or v of a row.
    const int8_t* head(int64_t part, int64_t h, int64_t of_row) const {
        return codes + (of_row * 3 + part) * sizes.channels() + h * sizes.width;
    }
    int64_t padded_tokens() const { return keys.panels() * kPanel; }
    int64_t padded_width() const { return values.panels() * kPanel; }

    void pack(int64_t b, int64_t h, int8_t* packed_keys, int8_t* packed_values) const {
        std::vector<const int8_t*> of_k, of_v;
        for (int64_t n = 0; n < sizes.tokens; ++n) {
            const int64_t at = row(b, n);
            of_k.push_back(head(1, h, at));
            of_v.push_back(head(2, h, at));
        }
        pack_rows(of_k.data(), keys, packed_keys);
        pack_columns(of_v.data(), values, packed_values);
    }
    static void product(CodeRows x, int64_t rows, const int8_t* packed, CodeLayout layout, int32_t* y) {
        const int64_t panels = layout.panels();
        for (int64_t p = 0; p < panels; p += kPanels) {
            code_product(x, rows, packed, layout, p, std::min(kPanels, panels - p), y + p * kPanel,
                         panels * kPanel);
        }
    }
    /// p = softmax of a row of score sums, 0 beyond the tokens: whole blocks of values take less time.
    void softmax(const int32_t* sums, int64_t b, int64_t h, int64_t line, float* p) const {
        const int64_t n = sizes.tokens;
        affine_row(sums, of_scores, static_cast<const float*>(nullptr), padded_tokens(), p);
        affine_row(p, factor, static_cast<const float*>(nullptr), padded_tokens(), p);
        if (problem.score_bias.defined()) {
            affine_row(p, 1.0f, problem.score_bias.data<float>() + (h * n + line) * n, n, p);
        }
        if (problem.mask.defined()) {
            affine_row(p, 1.0f, problem.mask.data<float>() + (b % problem.groups * n + line) * n, n, p);
        }
        softmax_row(p, n);
    }
};

}  // namespace

void attention_codes(Arg x, Arg packed, const AttentionProblem& problem, Arg y) {
    const Shape& shape = x.shape();
    check_tokens(x);
    check_size(packed, CodeLayout{3 * shape[2], shape[2]}.bytes(), DType::i8);
    check_size(y, x.numel(), y.dtype());
    const Tensor qkv = projected_codes(x, packed, problem).reshape({shape[0], shape[1], 3 * shape[2]});
    const Heads heads(qkv, problem);
    const int64_t channels = shape[2], tokens = heads.sizes.tokens, width = heads.sizes.width;
    const int64_t count = heads.sizes.batch * heads.sizes.heads;
    const int64_t kv_bytes = heads.keys.bytes() + heads.values.bytes();
    const Tensor packed_heads({count, kv_bytes}, DType::i8);
    auto* kv = packed_heads.data<int8_t>();
    const bool unsigned_p = problem.probability.range.data<int32_t>()[0] >= 0;
    const int64_t blocks = (tokens + kQueries - 1) / kQueries;
    parallel_chunks(count, 1, [&](int64_t index, int64_t, int64_t) {
        heads.pack(index / heads.sizes.heads, index % heads.sizes.heads, kv + index * kv_bytes,
                   kv + index * kv_bytes + heads.keys.bytes());
    });
    const auto all = [&]<typename P, typename Finish>(P, Finish finish) {
        parallel_chunks(count * blocks, 1, [&](int64_t task, int64_t, int64_t) {
            const int64_t index = task / blocks, b = index / heads.sizes.heads, h = index % heads.sizes.heads;
            const int64_t first = task % blocks * kQueries, rows = std::min(kQueries, tokens - first);
            const int8_t* packed_keys = kv + index * kv_bytes;
            const int64_t across = heads.padded_tokens();
            thread_local std::vector<int32_t> sums;
            thread_local std::vector<float> p;
            thread_local std::vector<P> codes;
            thread_local std::vector<int8_t> queries;
            sums.resize(static_cast<size_t>(kQueries * std::max(across, heads.padded_width())));
            p.resize(static_cast<size_t>(std::max(across, heads.padded_width())));
            codes.resize(static_cast<size_t>(kQueries * across));
            queries.resize(static_cast<size_t>(kQueries * width));
            for (int64_t r = 0; r < rows; ++r) {
                std::copy_n(heads.head(0, h, heads.row(b, first + r)), width, queries.data() + r * width);
            }
            Heads::product({reinterpret_cast<const uint8_t*>(queries.data()), width, true}, rows, packed_keys,
                           heads.keys, sums.data());
            for (int64_t r = 0; r < rows; ++r) {
                heads.softmax(sums.data() + r * across, b, h, first + r, p.data());
                codes_row(p.data(), heads.step, across, codes.data() + r * across);
            }
            Heads::product({reinterpret_cast<const uint8_t*>(codes.data()), across, !unsigned_p}, rows,
                           packed_keys + heads.keys.bytes(), heads.values, sums.data());
            for (int64_t r = 0; r < rows; ++r) {
                affine_row(sums.data() + r * heads.padded_width(), heads.of_outputs,
                           static_cast<const float*>(nullptr), width, p.data());
                finish(p.data(), heads.row(b, first + r) * channels + h * width);
            }
        });
    };
    const auto by_output = [&](auto p) {
        if (!problem.output.defined()) {
            float* py = y.data<float>();
            return all(p, [=](const float* o, int64_t at) { std::copy_n(o, width, py + at); });
        }
        const Step<float> step(problem.output);
        with_codes(y.dtype(), [&]<typename Q>() {
            Q* py = y.data<Q>();
            all(p, [=](const float* o, int64_t at) { codes_row(o, step, width, py + at); });
        });
    };
    unsigned_p ? by_output(uint8_t{}) : by_output(int8_t{});
}

}  // namespace vvtq::engine::cpu
