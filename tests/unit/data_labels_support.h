// What tests of damaged and of shared label sets have in common: one small set, its labels drawn by number.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "data/label_repack.h"
#include "data/label_sink.h"
#include "data/packed_labels.h"
#include "engine/random.h"
#include "tests/unit/data_support.h"

namespace vvtq::tests {

using namespace vvtq::data;

constexpr int kPictures = 7, kCrops = 3, kClasses = 12;
constexpr LabelType kType = LabelType::marginal_smoothing_k5;
inline const Stop kNever = [] { return false; };
inline const SoftLabelHeader kHeader{kType, 0, kCrops, kClasses, 42, 7, 77};
inline const NamedDataset kDataset("set/train", kPictures, kClasses, 42);

inline void draw_labels(int64_t picture, PictureLabels& labels) {
    engine::Random random(static_cast<uint64_t>(picture) + 5);
    std::vector<Coords> coords;
    Bytes flips;
    std::vector<float> p;
    for (int m = 0; m < kCrops; ++m) {
        coords.push_back(label_coords(random_crop(random, 150, 200, {}), 150, 200));
        flips.push_back(static_cast<uint8_t>(random.below(2)));
        double sum = 0;
        for (int c = 0; c < kClasses; ++c) sum += p.emplace_back(static_cast<float>(0.1 + random.uniform()));
        for (size_t c = p.size() - kClasses; c < p.size(); ++c) p[c] = static_cast<float>(p[c] / sum);
    }
    pack_labels(kType, coords, flips, p, labels);
}

inline void fill(LabelSink& sink, int64_t begin, int64_t end) {
    PictureLabels labels;
    for (int64_t i = begin; i < end; ++i) {
        draw_labels(i, labels);
        sink.append(i, labels);
    }
}

inline Bytes write_packed(const std::string& path) {
    const auto sink = make_packed_sink(path, kHeader, kDataset);
    fill(*sink, sink->resume(kNever).next, kPictures);
    sink->finish();
    return read_file(path, "");
}

inline bool holds_what_was_written(const SoftLabels& set) {
    PictureLabels labels, expected;
    const auto same = [](const auto& x, const auto& y) {
        return std::equal(x.begin(), x.end(), y.begin(), y.end());
    };
    for (int64_t i = 0; i < kPictures; ++i) {
        set.read(i, labels);
        draw_labels(i, expected);
        for (int m = 0; m < kCrops; ++m) set.crop(i, labels, m);
        if (!same(labels.coords, expected.coords) || !same(labels.flips, expected.flips) ||
            !same(labels.index, expected.index) || !same(labels.value, expected.value)) {
            return false;
        }
    }
    return true;
}

/// What the error says that `action` throws; empty where it throws none.
template <typename Action>
std::string said(Action action) {
    try {
        action();
    } catch (const engine::Error& error) {
        return error.what();
    }
    return "";
}

/// The bytes of a packed file with checksums that fit them, as far as its header makes sense: what lies
/// behind the checksums is to be reached by damage too.
inline Bytes mended(Bytes bytes) {
    PackedHeader raw;
    if (bytes.size() < sizeof raw) return bytes;
    std::memcpy(&raw, bytes.data(), sizeof raw);
    const bool sane = raw.version == kPackedVersion && raw.crops <= kMostCrops &&
                      raw.classes <= kMostClasses &&
                      raw.type <= static_cast<uint32_t>(LabelType::marginal_renorm);
    if (sane) {
        const PackedLayout layout({static_cast<LabelType>(raw.type), 0, static_cast<int>(raw.crops),
                                   static_cast<int>(raw.classes)});
        const size_t whole = (bytes.size() - sizeof raw) / layout.size;
        const size_t records = raw.pictures < whole ? raw.pictures : whole;
        const std::span rest = std::span(bytes).subspan(sizeof raw);
        for (size_t i = 0; i < records; ++i) {
            const std::span record = rest.subspan(i * layout.size, layout.size);
            const uint32_t check = record_check(i, record, layout);
            std::memcpy(record.data() + layout.check_at, &check, sizeof check);
        }
        raw.names_check = checksum(rest.subspan(records * layout.size));
    }
    raw.check = header_check(raw);
    std::memcpy(bytes.data(), &raw, sizeof raw);
    return bytes;
}

}  // namespace vvtq::tests
