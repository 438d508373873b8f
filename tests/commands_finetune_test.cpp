// Runs that begin with the weights of other models, and distilled models.
#include <filesystem>

#include "nn/model.h"
#include "tests/model_files.h"

using namespace vvtq;
using namespace vvtq::tests;
using engine::DType;

namespace fs = std::filesystem;

TEST_CASE("finetuning from other classes, other sizes, with steps, and from parts") {
    const Files files;
    const std::string train = "train --wbits 3 --abits 4" + files.run("x") + "--finetune ";
    std::vector<uint8_t> zeros(4 * 5 * 16);
    const auto five = files.foreign(files.fp, "five.safetensors", [&](auto& tensors) {
        for (auto& t : tensors) {
            if (!t.name.starts_with("head.")) continue;
            t.shape[0] = 5;
            t.data = {zeros.data(), t.name == "head.bias" ? 20U : zeros.size()};
        }
    });
    std::string out = files.done(train + five);
    CHECK(has(out, "=>   new             2  head.weight: 5 classes there, 3 here, head.bias: 5 classes"));
    files.refused("train --evaluate --finetune " + five + kModel + "--data " + files.data,
                  {five, "head.weight (5, 16) instead of (3, 16)"});
    out = files.done(train + files.fp + " --img-size 35");
    CHECK(has(out, "=>   converted       1  pos_embed: interpolated from 4 x 4 to 5 x 5"));
    files.refused("predict " + files.fp + " --img-size 35 " + files.picture + kModel,
                  {"--img-size 35 (there 28): pos_embed (1, 17, 16) instead of (1, 26, 16); leave"});

    const std::string still = " --keep-steps --fixed-scale ";
    CHECK(has(files.done(train + files.q + still), "=> step sizes of the checkpoint are kept"));
    CHECK(values_of(files.scratch / "x/checkpoint.safetensors", kStep) == values_of(files.q, kStep));
    files.done(train + files.published(files.q) + still);
    CHECK(values_of(files.scratch / "x/checkpoint.safetensors", kStep) == values_of(files.q, kStep));
    CHECK(has(files.done(train + files.q + " --fixed-scale"), "the steps of " + files.q + " are left out"));
    CHECK(values_of(files.scratch / "x/checkpoint.safetensors", kStep) != values_of(files.q, kStep));
    files.refused(train + files.q + still + "--wbits 2", {"--keep-steps", files.q, "W3A4, not W2A4"});
    files.refused(train + files.fp + still, {"--keep-steps", files.fp, "has no steps"});
    files.refused("train --keep-steps" + files.run("x"), {"--keep-steps", "--finetune"});

    const auto part = files.foreign(files.fp, "part.safetensors", [&](auto& tensors) {
        std::erase_if(tensors, [](const auto& t) { return t.name == "norm.weight"; });
        tensors.push_back({"extra", "F32", {2}, {zeros.data(), 8}});
    });
    files.refused(train + part, {part, "missing: norm.weight", "not in the model: extra (2)"});
    out = files.done(train + part + " --allow-partial");
    CHECK(has(out, "=>   missing         1  norm.weight\n=>   unexpected      1  extra (2)\n"));
    files.refused("pretrain --allow-partial" + files.run("x"), {"--allow-partial", "--finetune"});
}

TEST_CASE("distilled models are asked, evaluated and label, but are not trained") {
    const Files files;
    const std::string name = "deit_tiny_distilled_patch16_224";
    nn::ModelConfig config = nn::model_config(name);
    config.img_size = 32;
    config.embed_dim = 12;
    config.depth = 1;
    config.num_classes = 3;
    const auto model = nn::make_model(config, DType::f32, 4);
    std::vector<data::TensorBytes> tensors;
    for (const nn::NamedParameter& p : model->parameters()) {
        const nn::Tensor& t = p.parameter.value();
        tensors.push_back(
            {p.name, "F32", t.shape().vec(), {static_cast<const uint8_t*>(t.raw()), t.bytes()}});
    }
    const std::string file = files.scratch / "distilled.safetensors";
    data::write_safetensors(file, tensors, {});
    const std::string sizes = " --model " + name + " --img-size 32 --embed-dim 12 --depth 1 ";
    CHECK(has(files.predict(file, sizes + files.picture), files.picture + ": "));
    const std::string data = "--device cpu --data " + files.data;
    CHECK(has(files.done("train --evaluate " + data + " --finetune " + file + sizes), " * Acc@1"));
    files.done("softlabel --crops-per-image 2 --soft_label_type ori " + data + " --teacher " + file + sizes +
               "--softlabel_path " + files.scratch / "labels");
    CHECK(fs::file_size(files.scratch / "labels") > 0);
    for (const char* command : {"pretrain", "train"}) {
        files.refused(command + files.run("x") + sizes + "--finetune " + file,
                      {"--model", "but not trained"});
    }
}
