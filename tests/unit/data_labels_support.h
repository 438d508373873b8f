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
#include "tests/fuzz/targets.h"
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

}  // namespace vvtq::tests
