// loader: batches of crops, prepared by worker threads, in an order that (seed, epoch) fixes.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "data/crops.h"
#include "data/dataset.h"
#include "data/soft_labels.h"

namespace vvtq::data {

/// What a batch is made of.
enum class LoaderMode {
    evaluation,  ///< every picture once, in order, its evaluation crop; the last batch may be smaller
    training,    ///< pictures shuffled, one augmented crop each; a last smaller batch is dropped
    labelled,    ///< pictures shuffled, num_crops crops each out of a label file; a last smaller batch is
                 ///< dropped
    labelling,  ///< num_crops random crops of every picture, in order, for a teacher; the last may be smaller
};

struct LoaderOptions {
    LoaderMode mode = LoaderMode::evaluation;
    int batch_size = 1;  ///< crops in a batch
    int image_size = 224;
    Filter filter = Filter::bilinear;
    int workers = 0;  ///< threads; 0 prepares each batch in the caller's
    uint64_t seed = 0;
    /// evaluation: the shorter side before the central crop; 0 squeezes the whole picture to image_size,
    /// negative means evaluation_side(image_size).
    int shorter_side = -1;
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
    int64_t size = 0;               ///< B
    int image_size = 0;             ///< S
    int classes = 0;                ///< C
    Bytes pixels;                   ///< (B, 3, S, S), 8 bits
    std::vector<int64_t> pictures;  ///< (B) index in the data set
    std::vector<int> targets;       ///< (B) the picture's class; labelled: the class of largest probability
    std::vector<float> soft;        ///< (B, C) labelled only, else empty
    std::vector<Coords> coords;     ///< (B) labelled and labelling only, else empty
    std::vector<uint8_t> flips;     ///< (B) likewise
};

/// Channel means and deviations of pixels in [0, 1].
struct Normalization {
    float mean[3] = {0.485F, 0.456F, 0.406F};
    float deviation[3] = {0.229F, 0.224F, 0.225F};
};

/// out: (B, 3, S, S) = (pixel / 255 - mean) / deviation
template <typename Real>
void normalize(const Batch& batch, const Normalization& normalization, Real* out);

/// Usage: for each epoch, start(epoch), then next() until it returns false. The data set and the labels must
/// outlive the loader. It may be destroyed or started again at any moment.
class Loader {
  public:
    /// Errors: input_error where the labels belong to another data set, where they hold fewer crops than
    /// num_crops, or where training would have no full batch.
    Loader(const Dataset& dataset, const LoaderOptions& options, const SoftLabels* labels = nullptr);
    Loader(const Loader&) = delete;
    Loader& operator=(const Loader&) = delete;
    ~Loader();

    /// Batches in an epoch.
    int64_t batches() const { return batches_; }
    /// Begins `epoch`; its order and crops depend on (seed, epoch) alone. Begins at batch `first`.
    void start(uint64_t epoch, int64_t first = 0);
    /// The next batch, false at the end of the epoch. Memory of `batch` is used again. Rethrows what a worker
    /// threw.
    bool next(Batch& batch);

  private:
    // A batch in the making: slot b % slots of the ring belongs to batch b.
    struct Slot {
        Batch batch;
        std::exception_ptr error;
        bool ready = false;
    };
    // Scratch of one thread.
    struct Worker {
        Resampler resampler;
        Bytes rgb;
        std::vector<int> draw;
    };

    void stop();
    void work();
    void make(int64_t index, Batch& batch, Worker& worker) const;
    void add_crops(int64_t picture, int first, int count, Batch& batch, Worker& worker) const;
    void cut(const Image& image, const Box& box, bool flip, Batch& batch, Worker& worker) const;
    void evaluation_crop(int64_t picture, const Image& image, Batch& batch, Worker& worker) const;
    void random_crops(int64_t picture, const Image& image, int first, int count, Batch& batch,
                      Worker& worker) const;
    void labelled_crops(int64_t picture, const Image& image, int count, Batch& batch, Worker& worker) const;

    const Dataset& dataset_;
    LoaderOptions options_;
    const SoftLabels* labels_;
    int64_t batches_ = 0;

    bool started_ = false;
    uint64_t epoch_ = 0;
    std::vector<int64_t> order_;  // of pictures, where shuffled
    int64_t consumed_ = 0;        // batches handed out; guarded by mutex_ while threads run
    int64_t claimed_ = 0;         // batches taken by workers; guarded by mutex_
    std::atomic<bool> stopping_{false};
    std::mutex mutex_;
    std::condition_variable room_;   // a slot became free, or stopping
    std::condition_variable ready_;  // a slot was filled
    std::vector<Slot> slots_;
    std::vector<std::thread> threads_;
    Worker own_;  // the caller's, where there are no workers
};

}  // namespace vvtq::data
