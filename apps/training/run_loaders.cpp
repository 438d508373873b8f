#include "apps/training/run_loaders.h"

namespace vvtq::apps {

data::Loader& RunLoaders::training(int crops) {
    std::unique_ptr<data::Loader>& loader = crops == 1 ? single_ : several_;
    if (loader == nullptr) {
        data::LoaderOptions options = options_.training;
        options.num_crops = crops;
        options.device = device_;
        loader = std::make_unique<data::Loader>(*data_.train, options, data_.labels.get());
    }
    return *loader;
}

void RunLoaders::start(const Pass& pass, int64_t first) {
    training(pass.crops).start(static_cast<uint64_t>(pass.epoch), first);
}

data::Loader& RunLoaders::start_evaluation() {
    if (evaluation_ == nullptr) {
        data::LoaderOptions options = options_.evaluation;
        options.device = device_;
        evaluation_ = std::make_unique<data::Loader>(*data_.evaluation, options);
        evaluation_->start(0);
    }
    return *evaluation_;
}

}  // namespace vvtq::apps
