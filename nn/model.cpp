#include "nn/model.h"

#include <cmath>
#include <set>

#include "engine/random.h"

namespace vvtq::nn {

namespace {

/// FNV-1a: a number for a name.
uint64_t name_key(const std::string& name) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
    return hash;
}

double truncated_normal(engine::Random& random) {
    for (;;) {
        const double z = random.normal();
        if (std::abs(z) <= 2.0) return z;
    }
}

void draw_start_weights(Model& model, engine::DType dtype, uint64_t seed) {
    constexpr double kStd = 0.02;
    std::set<const void*> known;  // a parameter that is used twice is drawn under its first name
    for (NamedParameter& p : model.parameters()) {
        const engine::Shape shape = p.parameter.shape();
        const bool drawn = shape.rank() >= 2;  // biases and norms have their start values already
        if (!drawn || known.count(p.parameter.value().raw()) != 0) continue;
        engine::Random random(engine::mix_key({seed, name_key(p.name)}));
        std::vector<double> values(static_cast<size_t>(shape.numel()));
        const bool convolution = shape.rank() == 4 && p.name.ends_with(".weight");
        if (convolution) {
            const double bound = 1.0 / std::sqrt(static_cast<double>(shape.numel() / shape[0]));
            for (double& value : values) value = random.uniform(-bound, bound);
        } else {
            for (double& value : values) value = kStd * truncated_normal(random);
        }
        p.parameter.set_value(Tensor::from(values, shape, dtype));
        known.insert(p.parameter.value().raw());
    }
}

/// Weights are quantized for one forward pass, which an error may end.
class Prepared {
  public:
    Prepared(WeightPass& pass, engine::DType dtype) : pass_(pass) { pass.prepare(dtype, false); }
    ~Prepared() { pass_.release(); }
    Prepared(const Prepared&) = delete;
    Prepared& operator=(const Prepared&) = delete;

  private:
    WeightPass& pass_;
};

}  // namespace

Variable Model::forward(const Tensor& pictures, const Draws& draws) {
    if (weight_pass_ == nullptr || prepared_) return compute(pictures, draws);
    const Prepared prepared(*weight_pass_, pictures.dtype());
    return compute(pictures, draws);
}

PreparedWeights::PreparedWeights(Model& model, engine::DType dtype) : model_(model) {
    VVTQ_CHECK(!model.prepared_, "the weights are prepared already");
    if (model.weight_pass_ == nullptr) return;
    model.weight_pass_->prepare(dtype, true);
    codes_ = model.weight_pass_->collected();
    model.prepared_ = true;
}

PreparedWeights::~PreparedWeights() {
    if (!model_.prepared_) return;
    model_.weight_pass_->release();
    model_.prepared_ = false;
}

void PreparedWeights::backward(const Variable& term) {
    if (model_.prepared_) {
        model_.weight_pass_->backward(term);
    } else if (term.requires_grad()) {
        term.backward();
    }
}

Tensor random_key(uint64_t key, engine::Device device) {
    const Tensor host({1}, engine::DType::i64);
    if (!engine::ShapesOnly::active()) *host.data<int64_t>() = static_cast<int64_t>(key);
    return host.to(device);
}

std::unique_ptr<Model> make_shapes(const ModelConfig& config, engine::DType dtype) {
    constexpr double kMostParameters = 1 << 30;
    const Family& family = family_of(config);
    for (const Field& field : family.fields) field.check(config);
    const engine::ShapesOnly no_memory;
    std::unique_ptr<Model> model = family.build(config, dtype);
    double parameters = 0;
    for (const NamedParameter& p : model->parameters()) {
        parameters += static_cast<double>(p.parameter.shape().numel());
    }
    if (parameters <= kMostParameters) return model;
    std::string sizes;
    for (const Field& field : family.fields) {
        if (!field.help.empty())
            sizes += (sizes.empty() ? "`" : ", `") + field.name + "` " + size_text(field.get(config));
    }
    engine::input_error(sizes, " and ", config.num_classes,
                        " classes give more than 2^30 parameters: use a smaller model");
}

std::unique_ptr<Model> make_model(const ModelConfig& config, engine::DType dtype) {
    VVTQ_CHECK(dtype == engine::DType::f32 || dtype == engine::DType::f64, "dtype ", name_of(dtype));
    make_shapes(config, dtype);
    return family_of(config).build(config, dtype);
}

std::unique_ptr<Model> make_model(const ModelConfig& config, engine::DType dtype, uint64_t seed) {
    std::unique_ptr<Model> model = make_model(config, dtype);
    draw_start_weights(*model, dtype, seed);
    return model;
}

}  // namespace vvtq::nn
