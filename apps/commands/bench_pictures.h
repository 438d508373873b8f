// bench_pictures: pictures of a folder many times over, with labels, for measurements of the loader.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/soft_labels.h"

namespace vvtq::apps {

/// The same 500 crops for every picture: sides of 0.3 to 0.95 of the picture's, anywhere, half of them
/// mirrored.
class BenchLabels : public data::SoftLabels {
  public:
    explicit BenchLabels(const data::Dataset& dataset);
    void read(int64_t, data::PictureLabels& labels) const override {
        labels.coords = coords_;
        labels.flips = flips_;
        labels.index = index_;
    }
    std::string place(int64_t picture) const override { return "picture " + std::to_string(picture); }
    uint64_t content_hash() const override { return 0; }

  private:
    std::vector<float> coords_;
    data::Bytes flips_;
    std::vector<int32_t> index_;
};

/// Every picture many times over, so that an epoch outlasts the measurement.
class Repeated : public data::Dataset {
  public:
    Repeated(const data::Dataset& once, int64_t size)
        : Dataset(once.name(), once.class_names(), std::vector<int>(static_cast<size_t>(size), 0)),
          once_(once) {}
    std::string id(int64_t index) const override { return once_.id(index % once_.size()); }
    void open(int64_t index, data::PictureReader& reader) const override {
        once_.open(index % once_.size(), reader);
    }
    uint64_t fingerprint() const override { return once_.fingerprint(); }

  private:
    const data::Dataset& once_;
};

}  // namespace vvtq::apps
