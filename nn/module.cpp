#include "nn/module.h"

#include <utility>

namespace vvtq::nn {

namespace {

std::string join(const std::string& prefix, const std::string& name) {
    return prefix.empty() || name.empty() ? prefix + name : prefix + "." + name;
}

}  // namespace

std::vector<NamedParameter> Module::parameters(const std::string& prefix) const {
    std::vector<NamedParameter> found;
    for (const Slot& slot : slots_) {
        const std::string path = join(prefix, slot.name);
        if (slot.parameter.defined()) found.push_back({path, slot.parameter});
        if (slot.child == nullptr) continue;
        for (NamedParameter& below : slot.child->parameters(path)) found.push_back(std::move(below));
    }
    return found;
}

std::vector<std::pair<std::string, Tensor>> Module::buffers(const std::string& prefix) const {
    std::vector<std::pair<std::string, Tensor>> found;
    for (const Slot& slot : slots_) {
        const std::string path = join(prefix, slot.name);
        if (slot.buffer.defined()) found.emplace_back(path, slot.buffer);
        if (slot.child == nullptr) continue;
        for (auto& below : slot.child->buffers(path)) found.push_back(std::move(below));
    }
    return found;
}

std::vector<std::pair<std::string, Module*>> Module::modules(const std::string& prefix) {
    std::vector<std::pair<std::string, Module*>> found = {{prefix, this}};
    for (const Slot& slot : slots_) {
        if (slot.child == nullptr) continue;
        for (auto& below : slot.child->modules(join(prefix, slot.name))) found.push_back(std::move(below));
    }
    return found;
}

void Module::to(engine::Device device) {
    for (Slot& slot : slots_) {
        if (slot.parameter.defined()) slot.parameter.set_value(slot.parameter.value().to(device));
        if (slot.buffer.defined()) slot.buffer = slot.buffer.to(device);
        if (slot.child != nullptr) slot.child->to(device);
    }
}

void Module::train(bool on) {
    training_ = on;
    for (const Slot& slot : slots_) {
        if (slot.child != nullptr) slot.child->train(on);
    }
}

void Module::share_batch(const BatchShare& share) {
    batch_share_ = share;
    for (const Slot& slot : slots_) {
        if (slot.child != nullptr) slot.child->share_batch(share);
    }
}

Variable& Module::add_parameter(const std::string& name, Tensor value) {
    VVTQ_CHECK(!name.empty(), "a parameter needs a name");
    for (const Slot& slot : slots_) VVTQ_CHECK(slot.name != name, "\"", name, "\" exists already");
    slots_.push_back({name, Variable(std::move(value), true), {}, nullptr});
    return slots_.back().parameter;
}

Tensor& Module::add_buffer(const std::string& name, Tensor value) {
    VVTQ_CHECK(!name.empty() && value.defined(), "a buffer needs a name and a value");
    for (const Slot& slot : slots_) VVTQ_CHECK(slot.name != name, "\"", name, "\" exists already");
    slots_.push_back({name, {}, std::move(value), nullptr});
    return slots_.back().buffer;
}

void Module::add_module(const std::string& name, Module& child) {
    VVTQ_CHECK(&child != this, "a module cannot be its own child");
    for (const Slot& slot : slots_) {
        VVTQ_CHECK(name.empty() || slot.name != name, "\"", name, "\" exists already");
    }
    child.name_ = name;
    child.train(training_);
    slots_.push_back({name, {}, {}, &child});
}

}  // namespace vvtq::nn
