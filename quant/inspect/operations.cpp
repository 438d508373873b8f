#include "quant/inspect/operations.h"

#include <memory>
#include <set>

#include "autograd/trace.h"
#include "nn/evaluation_mode.h"
#include "quant/attach.h"
#include "quant/inspect/stand_in.h"

namespace vvtq::quant {

namespace {

using autograd::TracedOp;
using nn::Variable;

/// Follows quantized values from op to op.
class Reader {
  public:
    Reader(PictureCost& cost, const std::map<std::string, const nn::QuantizerSlot*>& slots)
        : cost_(cost), slots_(slots) {}

    void see(const TracedOp& op) {
        std::string path;  // of the quantizer that the op's output has passed
        const auto slot = slots_.find(op.scope);
        if (slot != slots_.end() && slot->second->values() != nn::Values::weight) {
            path = op.scope;
        } else if (kMoves.count(op.op) != 0) {
            path = quantizer_of(op.inputs[0]);
        }
        if (op.op == "linear" || op.op == "grouped_convolution") {
            const bool quantized = slot != slots_.end() && slot->second->get() != nullptr;
            add(op, op.inputs[1].shape().cols(), quantizer_of(op.inputs[0]), quantized ? op.scope : "");
        } else if (op.op == "attention_scores") {
            const int64_t heads = op.outputs[0].shape()[1];
            add(op, op.inputs[0].shape().cols() / heads, quantizer_of(op.inputs[0]),
                quantizer_of(op.inputs[1]));
        } else if (op.op == "attention_apply") {
            add(op, op.inputs[0].shape().cols(), quantizer_of(op.inputs[0]), quantizer_of(op.inputs[1]));
        }
        // Memory that an earlier value had may be that of this one now, so each output is set.
        for (const Variable& y : op.outputs) {
            if (y.defined()) quantizers_[y.value().raw()] = path;
        }
    }

  private:
    void add(const TracedOp& op, int64_t depth, std::string left, std::string right) {
        const auto outputs = static_cast<double>(op.outputs[0].shape().numel());
        cost_.products.push_back(
            {op.scope, outputs * static_cast<double>(depth), std::move(left), std::move(right)});
    }
    std::string quantizer_of(const Variable& x) const {
        const auto found = quantizers_.find(x.value().raw());
        return found == quantizers_.end() ? "" : found->second;
    }

    const std::set<std::string> kMoves{"reshape", "gather_tokens", "patchify", "unfold"};
    PictureCost& cost_;
    const std::map<std::string, const nn::QuantizerSlot*>& slots_;
    std::map<const void*, std::string> quantizers_;
};

}  // namespace

PictureCost picture_cost(nn::Model& model, const engine::Tensor& picture) {
    VVTQ_CHECK(picture.shape().rank() == 4 && picture.shape()[0] == 1, "one picture, not ",
               picture.shape().str());
    PictureCost cost;
    Float float_quantizer;
    std::vector<std::unique_ptr<StandIn>> stand_ins;  // so that no op does several products at once
    std::map<std::string, const nn::QuantizerSlot*> by_path;
    const auto all = slots(model);
    for (const auto& [path, slot] : all) {
        by_path[path] = slot;
        if (slot->values() == nn::Values::weight) continue;
        slot->watch([&cost, path = path](const engine::Tensor& x) {
            PictureCost::Values& seen = cost.values[path];
            if (seen.count == 0) seen.shape = x.shape();
            seen.count += x.numel();
        });
        if (slot->get() == nullptr) stand_ins.push_back(std::make_unique<StandIn>(*slot, float_quantizer));
    }
    {
        Reader reader(cost, by_path);
        const nn::EvaluationMode evaluation(model);
        const autograd::NoGrad off_tape;
        const autograd::Trace trace([&](const TracedOp& op) { reader.see(op); });
        model.forward(picture);
    }
    for (const auto& [path, slot] : all) {
        if (slot->values() != nn::Values::weight) slot->watch({});
    }
    return cost;
}

double bit_operations(const std::vector<Product>& products, const std::map<std::string, int>& bits) {
    const auto width = [&](const std::string& path) {
        const auto found = bits.find(path);
        return static_cast<double>(found == bits.end() ? kFloatBits : found->second);
    };
    double sum = 0;
    for (const Product& product : products) {
        sum += product.operations * width(product.left) * width(product.right);
    }
    return sum;
}

}  // namespace vvtq::quant
