#include "apps/commands/bench_pictures.h"

#include "engine/random.h"

namespace vvtq::apps {
namespace {

constexpr int kCrops = 500;  // a picture, as in the published label set

}  // namespace

BenchLabels::BenchLabels(const data::Dataset& dataset)
    : SoftLabels("bench", {data::LabelType::hard, dataset.size(), kCrops, dataset.classes(), 0, 0, 0}) {
    engine::Random random(1);
    constexpr double kLeast = 0.3, kMost = 0.95;
    for (int m = 0; m < kCrops; ++m) {
        const double h = random.uniform(kLeast, kMost), w = random.uniform(kLeast, kMost);
        for (double value : {(1 - h) * random.uniform(), (1 - w) * random.uniform(), h, w}) {
            coords_.push_back(static_cast<float>(value));
        }
        flips_.push_back(static_cast<uint8_t>(random.below(2)));
        index_.push_back(0);
    }
}

}  // namespace vvtq::apps
