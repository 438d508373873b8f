// Integer inference against evaluation in f32, op by op: the codes that travel between ops are the same but
// for values on the border of two codes. Of a trained model it prints the share of each op:
//
//     VVTQ_MODEL=small.safetensors VVTQ_PICTURES=DIR build/tests/vvtq_tests "codes of integer inference*"
#include <cstdio>
#include <cstdlib>
#include <map>

#include "apps/commands/bench_model.h"
#include "apps/commands/training_setup.h"
#include "autograd/trace.h"
#include "data/dataset.h"
#include "nn/inference.h"
#include "tests/catch.h"

using namespace vvtq;
using engine::DType;
using engine::Tensor;

namespace {

const apps::Compute kCompute{engine::Device::cpu, DType::f32, DType::f32};

/// What the ops of forward passes gave, in their order: "blocks.0 residual_norm 1: n" and its values.
struct Outputs {
    struct Output {
        std::vector<double> values;
        bool codes = false;  // i8 or u8
    };
    std::vector<std::string> names;
    std::map<std::string, Output> of;

    void note(const autograd::TracedOp& op) {
        const std::string name = op.scope + " " + op.op;
        const int time = times_[name]++;
        for (size_t i = 0; i < op.outputs.size(); ++i) {
            const Tensor& y = op.outputs[i].value();
            if (!y.defined()) continue;
            names.push_back(name + " " + std::to_string(time) + ":" + std::to_string(i));
            of[names.back()] = {y.to_vector(), y.dtype() == DType::i8 || y.dtype() == DType::u8};
        }
    }

  private:
    std::map<std::string, int> times_;
};

Outputs outputs_of(nn::Model& model, const Tensor& pictures) {
    Outputs outputs;
    const autograd::NoGrad off_tape;
    const autograd::Trace trace([&](const autograd::TracedOp& op) { outputs.note(op); });
    model.forward(pictures);
    return outputs;
}

struct Share {
    int64_t values = 0, differ = 0;
    bool codes = false;
    double share() const { return static_cast<double>(differ) / static_cast<double>(values); }
};

/// For each output that both passes have, how many values differ; of floats those that differ by more than
/// 1e-4 of the largest.
class Comparison {
  public:
    void add(nn::Model& model, const Tensor& pictures) {
        const Outputs floats = outputs_of(model, pictures);
        const nn::Inference inference(model, engine::DType::f32, nn::Products::integers);
        const Outputs codes = outputs_of(model, pictures);
        for (const std::string& name : codes.names) {
            const auto other = floats.of.find(name);
            const Outputs::Output& mine = codes.of.at(name);
            if (other == floats.of.end() || other->second.values.size() != mine.values.size()) continue;
            add(name, mine, other->second.values);
        }
        pictures_ += pictures.shape()[0];
    }
    Share all(bool codes) const {
        Share sum;
        for (const auto& [name, share] : shares_) {
            if (share.codes != codes) continue;
            sum.values += share.values;
            sum.differ += share.differ;
        }
        return sum;
    }
    size_t ops(bool codes) const {
        return static_cast<size_t>(std::count_if(shares_.begin(), shares_.end(),
                                                 [&](const auto& s) { return s.second.codes == codes; }));
    }
    void print() const {
        for (const std::string& name : order_) {
            const Share& share = shares_.at(name);
            std::printf("%-52s %-6s %12lld values, %8lld differ (%.1e)\n", name.c_str(),
                        share.codes ? "codes" : "floats", static_cast<long long>(share.values),
                        static_cast<long long>(share.differ), share.share());
        }
        for (const bool codes : {true, false}) {
            std::printf("all %s of %lld pictures: %lld of %lld differ (%.1e)\n", codes ? "codes" : "floats",
                        static_cast<long long>(pictures_), static_cast<long long>(all(codes).differ),
                        static_cast<long long>(all(codes).values), all(codes).share());
        }
    }

  private:
    void add(const std::string& name, const Outputs::Output& mine, const std::vector<double>& theirs) {
        if (shares_.count(name) == 0) order_.push_back(name);
        Share& share = shares_[name];
        share.codes = mine.codes;
        double most = 0;
        for (const double value : theirs) most = std::max(most, std::abs(value));
        const double bound = mine.codes ? 0.0 : 1e-4 * most;
        for (size_t i = 0; i < theirs.size(); ++i) {
            share.differ += !(std::abs(mine.values[i] - theirs[i]) <= bound);
        }
        share.values += static_cast<int64_t>(theirs.size());
    }

    std::vector<std::string> order_;
    std::map<std::string, Share> shares_;
    int64_t pictures_ = 0;
};

Comparison compare_random(const std::vector<std::string>& flags) {
    std::vector<std::string> words{"bench", "predict"};
    words.insert(words.end(), flags.begin(), flags.end());
    const auto options = apps::parse_options(words);
    const nn::ModelConfig config = apps::resolve_config(*options, nullptr, 0);
    const auto model = apps::random_model(*options, kCompute, config);
    model->train(false);
    Comparison comparison;
    comparison.add(*model, apps::random_batch(kCompute, config, 4, 3)->pictures(DType::f32));
    return comparison;
}

/// The pictures of a folder, cut as for an evaluation.
Comparison compare_trained(const std::string& file, const std::string& folder) {
    const auto options = apps::parse_options({"bench", "predict", file});
    const apps::Checkpoint checkpoint(file, "VVTQ_MODEL");
    std::vector<std::string> notes;
    const auto model = apps::load_model(*options, checkpoint, 0, kCompute, notes);
    const auto pictures = data::open_pictures({folder});
    data::LoaderOptions loading;
    loading.mode = data::LoaderMode::evaluation;
    loading.batch_size = 32;
    loading.image_size = static_cast<int>(model->config().img_size);
    loading.shorter_side = apps::shorter_side(apps::picture_crop(checkpoint), model->config().img_size);
    data::Loader loader(*pictures, loading);
    apps::DeviceBatch place(kCompute.device, loading.batch_size, loading.image_size,
                            model->config().num_classes, false);
    Comparison comparison;
    loader.start(0);
    for (data::Batch batch; loader.next(batch);) {
        place.load(batch);
        comparison.add(*model, place.pictures(DType::f32));
    }
    return comparison;
}

}  // namespace

TEST_CASE("codes of integer inference are those of evaluation in f32 but for a few on a border") {
    const char *file = std::getenv("VVTQ_MODEL"), *folder = std::getenv("VVTQ_PICTURES");
    if (file != nullptr && folder != nullptr) {
        compare_trained(file, folder).print();
        return;
    }
    const std::vector<std::string> deit{
        "--model", "deit_tiny_patch16_224", "--img-size", "48",      "--embed-dim",
        "48",      "--num-heads",           "3",          "--depth", "3"};
    const std::vector<std::string> swin{"--model",     "swin_tiny_patch4_window7_224",
                                        "--img-size",  "112",
                                        "--embed-dim", "24",
                                        "--depths",    "2",
                                        "2",           "2",
                                        "--num-heads", "2",
                                        "4",           "6"};
    const std::vector<std::string> sret{"--model",     "SReT_T",   "--img-size", "64", "--embed-dim",
                                        "16",          "--depths", "2",          "2",  "2",
                                        "--num-heads", "1",        "2",          "4"};
    for (const auto& sizes : {deit, swin, sret}) {
        for (const std::string bits : {"2", "3", "4", "8"}) {
            INFO(sizes[1] << ", " << bits << " bits");
            std::vector<std::string> flags = sizes;
            for (const std::string& word : {std::string("--wbits"), bits, std::string("--abits"), bits})
                flags.push_back(word);
            const Comparison comparison = compare_random(flags);
            CHECK(comparison.ops(true) >= 6);
            CHECK(comparison.ops(false) >= 6);
            CHECK(comparison.all(true).values > 10000);
            CHECK(comparison.all(true).differ == 0);  // these models' sums of codes stay below 2^24
            CHECK(comparison.all(false).differ == 0);
        }
    }
}
