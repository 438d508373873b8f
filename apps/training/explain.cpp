#include "apps/training/explain.h"

#include "autograd/variable.h"
#include "engine/kernels.h"

namespace vvtq::apps {

bool is_finite(const nn::Tensor& x) {
    const nn::Tensor count({1}, engine::DType::i64, x.device());
    engine::kernels(x.device()).count_not_finite(x, count);
    return count.item() == 0;
}

std::string parameter_not_finite(const nn::Model& model) {
    for (const nn::NamedParameter& p : model.parameters()) {
        const nn::Tensor& value = p.parameter.value();
        if (value.has_memory() && !is_finite(value)) return p.name;
    }
    return "";
}

std::string where_not_finite(const std::function<void()>& forward) {
    const autograd::NoGrad off_tape;
    const autograd::FiniteCheck check;
    try {
        forward();
    } catch (const engine::Error& error) {
        return error.what();
    }
    return "";
}

bool load_again(data::Loader& loader, uint64_t epoch, int64_t index, DeviceBatch& place) {
    loader.start(epoch, index);
    data::Batch batch;
    if (!loader.next(batch)) return false;
    place.load(batch);
    place.wait();
    return true;
}

}  // namespace vvtq::apps
