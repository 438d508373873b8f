// readback: small results of a device, read some steps later so that neither waits.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "engine/device.h"
#include "nn/module.h"

namespace vvtq::apps {

class Readback {
  public:
    explicit Readback(engine::Device device) : device_(device) {}
    ~Readback();
    Readback(const Readback&) = delete;
    Readback& operator=(const Readback&) = delete;

    /// Enqueues the copy of these tensors as earlier work leaves them.
    void send(const std::vector<nn::Tensor>& tensors);
    size_t pending() const { return waiting_.size(); }
    /// The values of the oldest `send`, one after the other; waits until they are there.
    std::vector<double> receive();

  private:
    struct Slot {
        void* host = nullptr;
        size_t bytes = 0;
        std::unique_ptr<engine::Event> copied;
        std::vector<nn::Tensor> sources;  // what was sent, kept until it has been copied
    };
    engine::Device device_;
    std::deque<Slot> waiting_;
    std::vector<Slot> spare_;
};

}  // namespace vvtq::apps
