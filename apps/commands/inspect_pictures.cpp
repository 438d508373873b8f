// `vvtq inspect --data`: what pictures tell: accuracy, activations, attention, tokens, sensitivity.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <numeric>

#include "apps/commands/inspection.h"
#include "apps/training/device_batch.h"
#include "apps/training/explain.h"
#include "apps/training/interrupt.h"
#include "autograd/trace.h"
#include "data/resample.h"
#include "engine/check.h"
#include "nn/losses.h"
#include "quant/inspect/stand_in.h"

namespace vvtq::apps {
namespace {

using nn::Tensor;

/// Pictures of another data set, spread evenly over it: a folder's are sorted by class.
class Spread : public data::Dataset {
  public:
    Spread(const data::Dataset& all, int64_t count)
        : Dataset(all.name(), all.class_names(), labels_of(all, count)), all_(all), count_(count) {}
    std::string id(int64_t index) const override { return all_.id(place(all_, count_, index)); }
    void open(int64_t index, data::PictureReader& reader) const override {
        all_.open(place(all_, count_, index), reader);
    }
    uint64_t fingerprint() const override { return all_.fingerprint(); }

  private:
    static int64_t place(const data::Dataset& all, int64_t count, int64_t index) {
        return index * all.size() / count;
    }
    static std::vector<int> labels_of(const data::Dataset& all, int64_t count) {
        std::vector<int> labels;
        for (int64_t i = 0; i < count; ++i) labels.push_back(all.label(place(all, count, i)));
        return labels;
    }
    const data::Dataset& all_;
    int64_t count_;
};

struct Measured {
    double loss, top1;  // mean cross-entropy, per cent
    ordered_json json() const { return {{"loss", loss}, {"top1", top1}}; }
};

Measured measure(nn::Model& model, const Pictures& pictures, const Compute& compute) {
    const autograd::NoGrad off_tape;
    const nn::PreparedWeights weights(model, compute.dtype);
    double loss = 0, right = 0;
    for (const Pictures::Part& part : pictures.parts()) {
        const nn::Variable logits = model.forward(part.pictures);
        const auto count = static_cast<double>(part.pictures.shape()[0]);
        loss += count * nn::cross_entropy(logits, part.labels, 0.0).value().item();
        right += nn::count_top(logits.value(), part.labels).to_vector()[0];
    }
    const auto all = static_cast<double>(pictures.size());
    return {loss / all, 100.0 * right / all};
}

/// While it lives, `see` gets each tensor that one of the slots quantizes, with the slot's place.
class Watch {
  public:
    template <typename See>
    Watch(Inspected& inspected, const See& see) : inspected_(inspected) {
        for (size_t i = 0; i < inspected.slots.size(); ++i) {
            if (inspected.slots[i].second->values() == nn::Values::weight) continue;
            inspected.slots[i].second->watch([see, i](const Tensor& x) { see(i, x); });
        }
    }
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
    ~Watch() {
        for (const auto& [path, slot] : inspected_.slots) slot->watch({});
    }

  private:
    Inspected& inspected_;
};

/// Adds to every entry of an activation what its quantizer does to the pictures.
void add_activations(Inspected& inspected, const Tensor& pictures) {
    std::vector<quant::Inspection> seen(inspected.slots.size());
    std::vector<int64_t> missing;  // values that are still to come: a block of SReT is used twice
    for (const auto& [path, slot] : inspected.slots) {
        const auto values = inspected.cost.values.find(path);
        missing.push_back(values == inspected.cost.values.end() ? 0
                                                                : values->second.count * pictures.shape()[0]);
    }
    const Watch watch(inspected, [&](size_t i, const Tensor& x) {
        const auto& [path, slot] = inspected.slots[i];
        if (!is_finite(x)) engine::run_error("the input of ", path, " is not finite: check the pictures");
        seen[i].append(quant::inspect(*slot->get(), x));
        missing[i] -= x.numel();
        if (missing[i] > 0) return;
        ordered_json& entry = inspected.entry(i);
        ordered_json elements;
        add_elements(elements, &seen[i]);
        for (const auto& [field, value] : elements.items()) entry[field] = value;
        add_sample_scale(entry, *slot->get(), x.shape(), static_cast<int64_t>(seen[i].values.size()));
        seen[i] = {};
    });
    const autograd::NoGrad off_tape;
    inspected.model->forward(pictures);
}

double five_digits(double value) { return std::round(value * 1e5) / 1e5; }

/// Row `row` of each head's (n, n) matrices, or the mean of their rows where it is negative. p (W, H, n, n).
std::vector<std::vector<double>> attention_rows(const std::vector<double>& p, const engine::Shape& shape,
                                                int64_t row) {
    const int64_t windows = shape[0], heads = shape[1], n = shape[2];
    std::vector<std::vector<double>> rows(static_cast<size_t>(heads),
                                          std::vector<double>(static_cast<size_t>(n), 0.0));
    const double share =
        row >= 0 ? 1.0 / static_cast<double>(windows) : 1.0 / static_cast<double>(windows * n);
    for (int64_t w = 0; w < windows; ++w) {
        for (int64_t h = 0; h < heads; ++h) {
            for (int64_t i = row >= 0 ? row : 0; i < (row >= 0 ? row + 1 : n); ++i) {
                for (int64_t j = 0; j < n; ++j) {
                    const auto at = static_cast<size_t>(((w * heads + h) * n + i) * n + j);
                    rows[static_cast<size_t>(h)][static_cast<size_t>(j)] += share * p[at];
                }
            }
        }
    }
    for (auto& head : rows) std::transform(head.begin(), head.end(), head.begin(), five_digits);
    return rows;
}

/// One block's attention before and after its quantizer.
ordered_json attention_block(const std::string& path, nn::Quantizer& quantizer, const Tensor& p,
                             bool class_token) {
    const std::vector<double> before = p.to_vector(), after = quantizer(nn::Variable(p)).value().to_vector();
    const engine::Shape& shape = p.shape();
    const int64_t heads = shape[1], each = shape[2] * shape[3];
    std::vector<double> errors(static_cast<size_t>(heads), 0.0);
    for (size_t i = 0; i < before.size(); ++i) {
        errors[i / static_cast<size_t>(each) % static_cast<size_t>(heads)] += std::fabs(before[i] - after[i]);
    }
    const auto rows_before = attention_rows(before, shape, class_token ? 0 : -1),
               rows_after = attention_rows(after, shape, class_token ? 0 : -1);
    ordered_json block = {{"name", path.substr(0, path.rfind('.'))}, {"heads", ordered_json::array()}};
    for (size_t h = 0; h < errors.size(); ++h) {
        block["heads"].push_back({{"error", errors[h] / static_cast<double>(shape[0] * each)},
                                  {"before", rows_before[h]},
                                  {"after", rows_after[h]}});
    }
    return block;
}

std::string base64(const data::Bytes& bytes) {
    constexpr const char* kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string text;
    for (size_t i = 0; i < bytes.size(); i += 3) {
        uint32_t group = 0;
        for (size_t k = 0; k < 3; ++k) group = group << 8 | (i + k < bytes.size() ? bytes[i + k] : 0U);
        for (size_t k = 0; k < 4; ++k) {
            text += i + k <= bytes.size() ? kDigits[group >> (18 - 6 * k) & 63] : '=';
        }
    }
    return text;
}

/// The picture as the model sees it, but at most 64 pixels a side.
ordered_json thumbnail(const data::Bytes& planes, int side) {
    const auto area = static_cast<size_t>(side) * static_cast<size_t>(side);
    data::Image image{side, side, data::Bytes(3 * area)};
    for (size_t i = 0; i < area; ++i) {
        for (size_t c = 0; c < 3; ++c) image.rgb[3 * i + c] = planes[c * area + i];
    }
    const int shown = std::min(side, 64);
    data::Bytes rgb;
    data::Resampler().resize(image, {0, 0, side, side}, shown, shown, data::Filter::bilinear, rgb);
    return {{"width", shown}, {"height", shown}, {"rgb", base64(rgb)}};
}

/// The L2 norms of the tokens of a residual stream (1, N, C).
std::vector<double> token_norms(const Tensor& x) {
    const std::vector<double> values = x.to_vector();
    const auto width = static_cast<size_t>(x.shape().cols());
    std::vector<double> norms(values.size() / width, 0.0);
    for (size_t i = 0; i < values.size(); ++i) norms[i / width] += values[i] * values[i];
    for (double& norm : norms) norm = five_digits(std::sqrt(norm));
    return norms;
}

/// "attention" and "tokens": one picture through the net.
void add_picture(Inspected& inspected, const Pictures& pictures) {
    const nn::ModelConfig& config = inspected.model->config();
    const bool class_token = config.family == "deit";
    ordered_json blocks = ordered_json::array(), norms = ordered_json::array();
    const auto see = [&](size_t i, const Tensor& p) {
        const auto& [path, slot] = inspected.slots[i];
        if (slot->values() != nn::Values::probability) return;
        blocks.push_back(attention_block(path, *slot->get(), p, class_token));
    };
    const auto see_op = [&](const autograd::TracedOp& op) {
        if (!op.scope.ends_with(".norm1")) return;
        if (op.op == "layer_norm") norms.push_back(token_norms(op.inputs[0].value()));
        if (op.op == "residual_norm" && op.outputs.size() == 2)
            norms.push_back(token_norms(op.outputs[1].value()));
    };
    std::vector<double> logits;
    {
        const Watch watch(inspected, see);
        const autograd::NoGrad off_tape;
        const autograd::Trace trace(see_op);
        logits = inspected.model->forward(pictures.parts().front().pictures.slice(0, 1)).value().to_vector();
    }
    const auto predicted = std::max_element(logits.begin(), logits.end()) - logits.begin();
    const int64_t side = config.img_size / config.patch_size;
    inspected.json["attention"] = {
        {"picture", thumbnail(pictures.first_pixels(), static_cast<int>(config.img_size))},
        {"label", pictures.first_label()},
        {"predicted", predicted},
        {"grid", class_token ? ordered_json({side, side}) : ordered_json()},
        {"blocks", blocks}};
    inspected.json["tokens"] = {{"norms", norms}};
}

/// At most `most` values of the tensors, spread evenly over each.
Tensor spread_values(const std::vector<Tensor>& tensors, size_t most) {
    std::vector<double> values;
    for (const Tensor& x : tensors) {
        const std::vector<double> all = x.to_vector();
        const size_t taken = std::min(all.size(), most / tensors.size());
        for (size_t k = 0; k < taken; ++k) values.push_back(all[k * all.size() / taken]);
    }
    return Tensor::from(values, {static_cast<int64_t>(values.size())}, engine::master_of(tensors[0].dtype()),
                        tensors[0].device());
}

/// What the slots see of a batch, a sample of each; of weights the weight.
std::vector<Tensor> slot_values(Inspected& inspected, const Tensor& pictures) {
    constexpr size_t kMost = 1 << 16;
    std::vector<std::vector<Tensor>> seen(inspected.slots.size());
    {
        const Watch watch(inspected,
                          [&](size_t i, const Tensor& x) { seen[i].push_back(spread_values({x}, kMost)); });
        const autograd::NoGrad off_tape;
        inspected.model->forward(pictures);
    }
    std::vector<Tensor> values;
    for (size_t i = 0; i < seen.size(); ++i) {
        const nn::QuantizerSlot& slot = *inspected.slots[i].second;
        const bool weight = slot.values() == nn::Values::weight;
        values.push_back(weight            ? slot.weight().value()
                         : seen[i].empty() ? Tensor()
                                           : spread_values(seen[i], kMost));
    }
    return values;
}

}  // namespace

Pictures::Pictures(const data::Dataset& dataset, int64_t count, data::LoaderOptions options,
                   const Inspected& inspected)
    : name_(dataset.name()) {
    const nn::ModelConfig& config = inspected.model->config();
    const Spread spread(dataset, std::min(count, dataset.size()));
    options.batch_size = static_cast<int>(std::min<int64_t>(options.batch_size, spread.size()));
    data::Loader loader(spread, options);
    DeviceBatch place(inspected.compute.device, options.batch_size, config.img_size, config.num_classes,
                      false);
    loader.start(0);
    data::Batch batch;
    while (!interrupted() && loader.next(batch)) {
        place.load(batch);
        parts_.push_back({place.pictures(inspected.compute.dtype), place.labels().clone()});
        if (size_ == 0) {
            first_label_ = batch.targets.front();
            first_pixels_.assign(batch.pixels.begin(),
                                 batch.pixels.begin() + 3 * config.img_size * config.img_size);
        }
        size_ += batch.size;
    }
    if (size_ == 0) engine::input_error("no picture could be decoded: name others with `data`");
}

void add_pictures(Inspected& inspected, const Pictures& pictures) {
    const Measured measured = measure(*inspected.model, pictures, inspected.compute);
    inspected.json["data"] = {{"path", pictures.name()},
                              {"pictures", pictures.size()},
                              {"batch", pictures.parts().front().pictures.shape()[0]},
                              {"top1", measured.top1},
                              {"loss", measured.loss}};
    add_activations(inspected, pictures.parts().front().pictures);
    add_picture(inspected, pictures);
}

bool add_sensitivity(Inspected& inspected, const Pictures& pictures) {
    const bool shown = isatty(STDERR_FILENO) == 1;
    const std::vector<Tensor> values = slot_values(inspected, pictures.parts().front().pictures);
    const ordered_json now = {{"loss", inspected.json["data"]["loss"]},
                              {"top1", inspected.json["data"]["top1"]}};
    quant::Float as_float;
    for (size_t i = 0; i < inspected.slots.size(); ++i) {
        nn::QuantizerSlot& slot = *inspected.slots[i].second;
        if (!values[i].defined()) continue;  // the model never calls it
        if (shown) {
            std::cerr << "\r\033[Ksensitivity " << i << "/" << inspected.slots.size() << std::flush;
        }
        if (interrupted()) break;
        const auto with = [&](nn::Quantizer& quantizer) {
            const quant::StandIn stand_in(slot, quantizer);
            return measure(*inspected.model, pictures, inspected.compute).json();
        };
        ordered_json sensitivity = {{"float", with(as_float)}, {"two_bit", now}};
        if (inspected.entry(i)["bits"] != 2) {
            sensitivity["two_bit"] = with(*quant::fitted_quantizer(slot, 2, values[i]));
        }
        inspected.entry(i)["sensitivity"] = sensitivity;
    }
    if (shown) std::cerr << "\r\033[K" << std::flush;
    return !interrupted();
}

}  // namespace vvtq::apps
