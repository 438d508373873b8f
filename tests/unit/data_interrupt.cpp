// A loader whose workers take long does not hold up who wants to stop.
#include <atomic>
#include <thread>

#include "data/loader.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace {

/// Pictures that nobody gets before they are released.
class HeldBack : public NamedDataset {
  public:
    explicit HeldBack(const std::atomic<bool>& released)
        : NamedDataset("held back", 8, 2, 1), released_(released) {}
    void open(int64_t index, data::PictureReader& reader) const override {
        while (!released_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        NamedDataset::open(index, reader);
    }

  private:
    const std::atomic<bool>& released_;
};

}  // namespace

TEST_CASE("a loader that waits for its workers can be interrupted") {
    std::atomic<bool> released{false}, interrupted{false};
    const HeldBack pictures(released);
    data::LoaderOptions options;
    options.batch_size = 4;
    options.workers = 2;
    options.interrupted = [&] { return interrupted.load(); };
    data::Loader loader(pictures, options);
    data::Batch batch;
    loader.start(0);
    std::thread signal([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        interrupted = true;
    });
    CHECK_FALSE(loader.next(batch));  // comes back although nothing was released
    CHECK_FALSE(released);
    signal.join();
    released = true;
    CHECK_THROWS_AS(loader.next(batch), engine::Error);  // the pictures cannot be decoded
}
