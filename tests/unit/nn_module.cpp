// The tree of modules: names, order, slots and modes.
#include <algorithm>
#include <memory>
#include <string_view>

#include "nn/layers.h"
#include "tests/catch.h"

namespace vvtq::nn {

namespace {

using engine::DType;

/// A quantizer with one parameter that doubles its input's handle through: y = x.
class Marker : public Quantizer {
  public:
    explicit Marker(DType dtype) { add_parameter("alpha", Tensor::full({1}, 0.5, dtype)); }
    Variable operator()(const Variable& x) override {
        ++calls;
        last_scope = autograd::Scope::current();
        return x;
    }
    QuantizerDescription describe() const override { return {"marker", 8, {}, {0.5}, {}}; }
    int calls = 0;
    std::string last_scope;
};

std::vector<std::string> names_of(const Module& module) {
    std::vector<std::string> names;
    for (const NamedParameter& p : module.parameters()) names.push_back(p.name);
    return names;
}

/// The slot whose path is `path`.
QuantizerSlot& slot_at(Module& module, std::string_view path) {
    for (const auto& [name, below] : module.modules()) {
        auto* slot = dynamic_cast<QuantizerSlot*>(below);
        if (slot != nullptr && name == path) return *slot;
    }
    FAIL("no slot at " << path);
    throw std::logic_error("unreachable");
}

class Twice : public Module {
  public:
    void add(const std::string& name) { add_parameter(name, Tensor::zeros({1}, DType::f64)); }
    void add(const std::string& name, Module& child) { add_module(name, child); }
};

}  // namespace

TEST_CASE("parameters are named by their path, in registration order") {
    Mlp mlp(4, 8, DType::f64);
    CHECK(names_of(mlp) == std::vector<std::string>{"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"});
    CHECK(mlp.parameters("blocks.3.mlp")[1].name == "blocks.3.mlp.fc1.bias");
    CHECK(mlp.modules("m")[0].first == "m");
    CHECK(mlp.modules("m")[0].second == &mlp);
}

TEST_CASE("a filled slot adds its parameters under its own path, a weight's under the layer's") {
    Mlp mlp(4, 8, DType::f64);
    slot_at(mlp, "quant2").fill(std::make_unique<Marker>(DType::f64));
    slot_at(mlp, "fc1").fill(std::make_unique<Marker>(DType::f64));
    CHECK(names_of(mlp) == std::vector<std::string>{"fc1.weight", "fc1.bias", "fc1.alpha", "quant2.alpha",
                                                    "fc2.weight", "fc2.bias"});
    const QuantizerSlot& slot = slot_at(mlp, "fc1");
    CHECK(slot.values() == Values::weight);
    CHECK(slot.weight().value().raw() == mlp.parameters()[0].parameter.value().raw());
    CHECK(slot_at(mlp, "quant2").values() == Values::activated);
    CHECK_FALSE(slot_at(mlp, "quant2").weight().defined());

    mlp.forward(Variable(Tensor::full({1, 2, 4}, 0.25, DType::f64)));
    const auto* quantizer = dynamic_cast<Marker*>(slot.get());
    REQUIRE(quantizer != nullptr);
    CHECK(quantizer->calls == 1);
    CHECK_THROWS_AS(slot_at(mlp, "fc1").fill(std::make_unique<Marker>(DType::f64)), engine::Error);
}

TEST_CASE("a quantizer computes in the scope of its path") {
    LayerNorm norm(4, 1e-6, DType::f64);
    Mlp mlp(4, 8, DType::f64);
    Twice tree;
    tree.add("norm", norm);
    tree.add("mlp", mlp);
    for (const char* path : {"mlp.fc2", "mlp.quant1", "mlp.quant2"})
        slot_at(tree, path).fill(std::make_unique<Marker>(DType::f64));
    const Variable x(Tensor::full({1, 2, 4}, 0.25, DType::f64));
    mlp.forward(norm.forward({x, {}, {}}, mlp, mlp.quant1()).n);
    CHECK(dynamic_cast<Marker*>(slot_at(tree, "mlp.fc2").get())->last_scope == "mlp.fc2");
    CHECK(dynamic_cast<Marker*>(slot_at(tree, "mlp.quant1").get())->last_scope == "mlp.quant1");
    CHECK(dynamic_cast<Marker*>(slot_at(tree, "mlp.quant2").get())->last_scope == "mlp.quant2");
    CHECK(autograd::Scope::current().empty());
}

TEST_CASE("a replaced value reaches every holder of the parameter") {
    Linear linear({3, 2}, DType::f64);
    auto parameters = linear.parameters();
    parameters[0].parameter.set_value(Tensor::full({3, 2}, 2.0, DType::f64));
    const Variable y = linear.forward(Variable(Tensor::full({1, 2}, 1.0, DType::f64)));
    CHECK(y.value().to_vector() == std::vector<double>{4, 4, 4});
}

TEST_CASE("the mode reaches the whole tree, and modules that are added later") {
    Mlp mlp(4, 8, DType::f64);
    mlp.train(false);
    slot_at(mlp, "quant1").fill(std::make_unique<Marker>(DType::f64));
    for (const auto& [path, module] : mlp.modules()) CHECK_FALSE(module->training());
    mlp.train(true);
    for (const auto& [path, module] : mlp.modules()) CHECK(module->training());
}

TEST_CASE("two members of one name are an error") {
    Twice module, child, other;
    module.add("a");
    CHECK_THROWS_AS(module.add("a"), engine::Error);
    module.add("b", child);
    CHECK_THROWS_AS(module.add("b", other), engine::Error);
    CHECK_THROWS_AS(module.add("c", module), engine::Error);
    CHECK_THROWS_AS(module.add(""), engine::Error);
}

}  // namespace vvtq::nn
