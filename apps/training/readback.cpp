#include "apps/training/readback.h"

#include <cstring>

namespace vvtq::apps {

Readback::~Readback() {
    for (; !waiting_.empty(); waiting_.pop_front()) {
        try {
            waiting_.front().copied->wait();
        } catch (const engine::Error&) {
            // ignored in the destructor; the next call reports it
        }
        spare_.push_back(std::move(waiting_.front()));
    }
    for (Slot& slot : spare_) engine::runtime(device_).release_host(slot.host, slot.bytes);
}

void Readback::send(const std::vector<nn::Tensor>& tensors) {
    engine::Runtime& runtime = engine::runtime(device_);
    size_t bytes = 0;
    for (const nn::Tensor& t : tensors) bytes += t.bytes();
    Slot slot;
    if (!spare_.empty() && spare_.back().bytes >= bytes) {
        slot = std::move(spare_.back());
        spare_.pop_back();
    } else {
        slot.host = runtime.allocate_host(bytes);
        slot.bytes = bytes;
        slot.copied = runtime.make_event();
    }
    auto* to = static_cast<char*>(slot.host);
    for (const nn::Tensor& t : tensors) {
        runtime.enqueue_download(t.raw(), to, t.bytes());
        to += t.bytes();
    }
    slot.copied->record();
    slot.sources = tensors;
    waiting_.push_back(std::move(slot));
}

std::vector<double> Readback::receive() {
    VVTQ_CHECK(!waiting_.empty(), "nothing was sent");
    Slot slot = std::move(waiting_.front());
    waiting_.pop_front();
    slot.copied->wait();
    std::vector<double> values;
    const auto* from = static_cast<const char*>(slot.host);
    for (const nn::Tensor& t : slot.sources) {
        const nn::Tensor host(t.shape(), t.dtype());
        std::memcpy(host.raw(), from, t.bytes());
        from += t.bytes();
        const std::vector<double> some = host.to_vector();
        values.insert(values.end(), some.begin(), some.end());
    }
    slot.sources.clear();
    spare_.push_back(std::move(slot));
    return values;
}

}  // namespace vvtq::apps
