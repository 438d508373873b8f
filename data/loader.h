// loader: batches of crops, prepared by worker threads, in an order that (seed, epoch) fixes. A picture is
// decoded once for all its crops in a batch, and only as far as they reach. Workers share nothing while they
// make a batch; memory is that of one batch more than there are workers.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "data/augment.h"
#include "data/crops.h"
#include "data/dataset.h"
#include "data/mixing.h"
#include "data/normalization.h"
#include "data/resample.h"
#include "data/soft_labels.h"
#include "engine/host_memory.h"

namespace vvtq::data {

/// What a batch is made of.
enum class LoaderMode {
    evaluation,  ///< every picture once, in order, its evaluation crop; the last batch may be smaller
    training,    ///< pictures shuffled, one augmented crop each; a last smaller batch is dropped
    labelled,    ///< pictures shuffled, num_crops crops each out of a label file; a last smaller batch is
                 ///< dropped
    labelling,   ///< num_crops random crops of every picture, in order, for a teacher, or those of another
                 ///< label set; the last batch may be smaller
};

/// What training does to a crop and a batch beside cutting and mirroring.
struct Augmentation {
    RandAugment rand_augment;
    double color_jitter = 0.0;  ///< strength; without rand_augment only, as in timm
    Erasing erasing;
    Mixing mixing;
    double smoothing = 0.0;  ///< of the soft targets that mixing makes
    /// Each picture comes this many times in a row, and an epoch sees one of as many pictures.
    int repeats = 1;
    bool random_filter = false;  ///< bilinear or bicubic, drawn for every crop
};

struct LoaderOptions {
    LoaderMode mode = LoaderMode::evaluation;
    int batch_size = 1;  ///< crops in a batch
    int image_size = 224;
    /// training, labelled: decodes a JPEG at 1/2, 1/4 or 1/8 where all its crops are shrunk by as much: less
    /// work, other pixels.
    bool reduced_decoding = false;
    Filter filter = Filter::bilinear;
    engine::Device device = engine::Device::cpu;  ///< that pixels are copied to: page-locked for a GPU
    int workers = 0;                              ///< threads; 0 prepares each batch in the caller's
    uint64_t seed = 0;
    /// evaluation: the shorter side before the central crop; 0 squeezes the whole picture to image_size,
    /// negative means evaluation_side(image_size).
    int shorter_side = -1;
    /// Several processes share out an epoch. evaluation, labelling: this one makes every processes-th batch,
    /// from batch `process` on. training, labelled: it makes its part of every batch, batch_size / processes
    /// crops. Together they make what one process would.
    int process = 0;
    int processes = 1;
    /// training, labelled: the batch consists of so many shards, none of which two processes share unless it
    /// is 1; mixing is within a shard.
    int shards = 1;
    /// A picture that cannot be decoded is left out (evaluation, labelling) or gives its place to the next
    /// one (training, labelled), and is told of at the end of the epoch; else it is an error.
    bool skip_bad = false;
    /// Called by next() with one line at the end of an epoch that left out pictures.
    std::function<void(const std::string&)> on_skipped;
    /// Asked while next() waits for workers; next() returns false soon after it says yes.
    std::function<bool()> interrupted;
    Augmentation augmentation;  ///< training
    /// training, labelling: crops by `rule` (training: only where `augment`, else the whole picture),
    /// mirrored with flip_probability.
    bool augment = true;
    CropRule rule;
    double flip_probability = 0.5;
    /// labelled: crops drawn of a picture, without replacement; a batch holds ceil(batch_size / num_crops)
    /// pictures, the last of which gives fewer crops where the division has a rest. labelling: crops made of
    /// a picture.
    int num_crops = 1;
};

/// Crops of one picture are neighbours.
struct Batch {
    using Pixels = std::vector<uint8_t, engine::HostAllocator<uint8_t>>;

    int64_t size = 0;               ///< B
    int image_size = 0;             ///< S
    int classes = 0;                ///< C
    Pixels pixels;                  ///< (B, 3, S, S), 8 bits
    std::vector<int64_t> pictures;  ///< (B) index in the data set
    std::vector<int64_t> places;  ///< (B) training, labelled: place in the batch of all processes; else empty
    std::vector<int> targets;     ///< (B) the picture's class; labelled: the class of largest probability
    std::vector<float> soft;      ///< (B, C) labelled, or training with mixing; else empty
    std::vector<Coords> coords;   ///< (B) labelled and labelling only, else empty
    std::vector<uint8_t> flips;   ///< (B) likewise
    std::vector<std::string> skipped;  ///< what was wrong with pictures that were left out
};

/// Usage: for each epoch, start(epoch), then next() until it returns false. The data set and the labels must
/// outlive the loader. It may be destroyed or started again at any moment.
class Loader {
  public:
    /// `labels` go with labelled crops, and with labelling where the crops are those of another label set.
    /// Errors: input_error where the labels hold fewer crops than num_crops, or where training would have no
    /// full batch.
    Loader(const Dataset& dataset, const LoaderOptions& options, const SoftLabels* labels = nullptr);
    Loader(const Loader&) = delete;
    Loader& operator=(const Loader&) = delete;
    ~Loader();

    const Dataset& dataset() const { return dataset_; }
    const LoaderOptions& options() const { return options_; }
    /// Batches of this process in an epoch.
    int64_t batches() const { return batches_; }
    /// Begins `epoch`; its order and crops depend on (seed, epoch) alone. Begins at batch `first`. Workers
    /// begin at once, so this may be called long before the first next(); a second call with the same
    /// arguments before it does nothing.
    void start(uint64_t epoch, int64_t first = 0);
    /// Whether workers have begun all batches of the epoch, so that some have nothing more to do in it.
    bool all_begun();
    /// The next batch with a crop in it, false at the end of the epoch, or where it was interrupted. Memory
    /// of `batch` is used again. Rethrows what a worker threw.
    bool next(Batch& batch);

    /// Nanoseconds that workers spent making batches so far, and of these in decoding JPEGs and resampling.
    int64_t busy_time() const { return busy_time_; }
    int64_t jpeg_time() const { return jpeg_time_; }
    int64_t resample_time() const { return resample_time_; }

  private:
    // A batch in the making: slot b % slots of the ring belongs to batch b.
    struct Slot {
        Batch batch;
        std::exception_ptr error;
        bool ready = false;
    };
    // A crop to be made: number `crop` of the picture.
    struct Item {
        int64_t picture;
        int crop;
    };
    // Where a crop is cut, and how.
    struct Cut {
        Box box;
        bool flip = false;
        Filter filter = Filter::bilinear;
        LabelledCrop label;
    };
    // Scratch of one thread.
    struct Worker {
        PictureReader reader;
        PictureLabels labels;
        Resampler resampler;
        Image image;
        std::vector<int> draw;
        std::vector<Item> items;
        std::vector<Cut> cuts;
        std::chrono::nanoseconds resample_time{0};
    };

    void count_batches();
    void share_out();
    void mix(int64_t number, Batch& batch) const;
    bool take(Batch& batch);
    void stop();
    void work();
    void make(int64_t index, Batch& batch, Worker& worker);
    void list_items(int64_t batch, std::vector<Item>& items) const;
    void add_crops(std::span<const Item> items, Batch& batch, Worker& worker) const;
    template <typename Action>
    bool good(Batch& batch, Action action) const;
    Box plan(std::span<const Item> items, int64_t picture, Worker& worker) const;
    int reduction(const Worker& worker) const;
    const Canvas& decode(const Box& needed, int64_t picture, Worker& worker) const;
    void plan_random(std::span<const Item> items, int64_t picture, Worker& worker) const;
    void plan_labelled(std::span<const Item> items, int64_t picture, Worker& worker) const;
    void add_evaluation_crop(int64_t picture, const Canvas& canvas, Batch& batch, Worker& worker) const;
    void add_cut(const Item& item, int64_t picture, const Cut& cut, const Canvas& canvas, Batch& batch,
                 Worker& worker) const;
    engine::Random draws(uint64_t purpose, int64_t picture, int crop) const;

    const Dataset& dataset_;
    LoaderOptions options_;
    const SoftLabels* labels_;
    int64_t batches_ = 0;
    std::vector<int64_t> places_;  // of a batch, those that this process makes; training, labelled

    bool started_ = false;
    bool untouched_ = false;  // since start(), no batch was asked for
    uint64_t epoch_ = 0;
    std::vector<int64_t> order_;  // of pictures, where shuffled
    int64_t first_ = 0;
    int64_t consumed_ = 0;  // batches handed out; guarded by mutex_ while threads run
    int64_t claimed_ = 0;   // batches taken by workers; guarded by mutex_
    std::atomic<bool> stopping_{false};
    std::mutex mutex_;
    std::condition_variable room_;   // a slot became free, or stopping
    std::condition_variable ready_;  // a slot was filled
    std::vector<Slot> slots_;
    std::vector<std::thread> threads_;
    Worker own_;  // the caller's, where there are no workers
    int64_t skipped_ = 0;
    std::string first_skipped_;
    std::atomic<int64_t> busy_time_{0}, jpeg_time_{0}, resample_time_{0};  // nanoseconds
};

}  // namespace vvtq::data
