#include "engine/trace.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace vvtq::engine {

namespace {

thread_local KernelTrace* active = nullptr;

/// What counts of a call's arguments.
struct Arguments {
    std::vector<Tensor> tensors;
    const BatchedShape* batched = nullptr;
    const AttentionProblem* attention = nullptr;

    void add(const Tensor& t) {
        if (t.defined()) tensors.push_back(t);
    }
    void add(const QuantParams& q) {
        add(q.scale);
        add(q.offset);
    }
    void add(const BatchedShape& shape) { batched = &shape; }
    void add(const AttentionProblem& problem) {
        attention = &problem;
        add(problem.score_bias);
        add(problem.mask);
    }
    void add(const WeightItem& item) {
        add(item.w);
        add(item.codes);
    }
    void add(const WeightGradientItem& item) {
        for (const Tensor* t : {&item.w, &item.dy, &item.dw}) add(*t);
    }
    void add(const AdamwItem& item) {
        for (const Tensor* t : {&item.p, &item.g, &item.m, &item.v, &item.p, &item.m, &item.v}) add(*t);
    }
    void add(const PackItem& item) { add(item.part); }
    void add(const CodeTrackItem& item) {
        add(item.w);
        for (const Tensor* t : {&item.code, &item.mark, &item.frequency, &item.mean}) {
            add(*t);
            add(*t);  // read and written
        }
    }
    void add(const FrozenItem& item) { add(item.mark); }
    template <typename T>
    void add(const std::vector<T>& items) {
        for (const T& item : items) add(item);
    }
    template <typename T>
    void add(const T&) {}  // numbers

    std::string shapes() const {
        constexpr size_t kShown = 12;  // a list of weights would fill the screen
        std::string text;
        for (size_t i = 0; i < std::min(kShown, tensors.size()); ++i) {
            text += (i == 0 ? "" : " ") + tensors[i].shape().str();
        }
        return tensors.size() <= kShown ? text
                                        : text + " and " + std::to_string(tensors.size() - kShown) + " more";
    }
    double bytes(std::string_view kernel) const {
        double total = 0;
        for (const Tensor& t : tensors) total += static_cast<double>(t.bytes());
        const bool twice = kernel.starts_with("accumulate_");  // its output is read as well
        return total + (twice && !tensors.empty() ? static_cast<double>(tensors.back().bytes()) : 0.0);
    }
    double flops(std::string_view kernel) const {
        const auto size = [&](const Tensor& t) { return static_cast<double>(t.numel()); };
        if (batched != nullptr) {
            const BatchedShape& s = *batched;
            return 2.0 * static_cast<double>(s.outer * s.inner) * static_cast<double>(s.m * s.n) *
                   static_cast<double>(s.k);
        }
        if (attention != nullptr && !tensors.empty()) {
            // z (B, N, 3C), behind dy in backward: two products forward, five backward, each of 2 B N n C
            const bool backward = kernel == "attention_backward";
            const Tensor& z = tensors[backward ? 1 : 0];
            const double tokens = static_cast<double>(z.shape()[1]) / static_cast<double>(attention->groups);
            return (backward ? 10.0 : 4.0) * size(z) / 3 * tokens;
        }
        // (m k) (k n) (m n) = (m k n)^2
        if (is_product(kernel))
            return 2.0 * std::sqrt(size(tensors[0]) * size(tensors[1]) * size(tensors.back()));
        return 0.0;
    }
    ProductSize product(std::string_view kernel) const {
        if (batched != nullptr) return {batched->outer * batched->inner * batched->m, batched->n, batched->k};
        if (kernel != "linear") return {};
        return {tensors[0].shape().rows(), tensors[1].shape().rows(), tensors[1].shape().cols()};
    }
};

/// A kernel's name as a template argument.
template <size_t N>
struct Name {
    char text[N];
    constexpr Name(const char (&name)[N]) {
        std::copy_n(name, N, text);
    }  // implicit, so that lists read plainly
};

}  // namespace

struct TraceAccess {
    template <typename Signature>
    struct Call;
};

template <typename... Args>
struct TraceAccess::Call<void(Args...)> {
    template <Name name, Entry<void(Args...)> Kernels::*kernel>
    static void call(Args... args) {
        KernelTrace& trace = *active;
        const auto& entry = trace.untraced_->*kernel;
        if (!trace.products_only_ || is_product(name.text)) {
            Arguments arguments;
            (arguments.add(args), ...);
            const std::string shapes = arguments.shapes();
            const auto [at, added] = trace.known_.emplace(name.text + shapes, trace.calls_.size());
            if (added) {
                trace.calls_.push_back({name.text, shapes, 0, 0, arguments.bytes(name.text),
                                        arguments.flops(name.text), arguments.product(name.text),
                                        [entry, kept = std::tuple<std::decay_t<Args>...>(args...)] {
                                            std::apply([&](const auto&... again) { entry(again...); }, kept);
                                        }});
            }
            KernelCall& seen = trace.calls_[at->second];
            ++seen.count;
            if (trace.depth_ > 0) ++seen.nested;
        }
        ++trace.depth_;
        entry(args...);
        --trace.depth_;
    }
};

KernelTrace::KernelTrace(Device device, bool products_only) : device_(device), products_only_(products_only) {
    VVTQ_CHECK(active == nullptr, "a trace lives already");
    untraced_ = &kernels(device);
    active = this;
}

KernelTrace::~KernelTrace() { active = nullptr; }

namespace {

/// One table for each device: they differ in what is no kernel.
template <Device device>
const Kernels& traced(const Kernels& untraced) {
    static const Kernels table{
#define VVTQ_KERNEL(name) \
    .name = TraceAccess::Call<SignatureOf<decltype(Kernels::name)>::type>::call<Name(#name), &Kernels::name>,
#include "engine/kernel_list.h"
        .recompute = untraced.recompute,
        .row_bytes = untraced.row_bytes,
    };
    return table;
}

}  // namespace

const Kernels* KernelTrace::table(Device device, const Kernels& untraced) {
    if (active == nullptr || active->device_ != device) return nullptr;
    return device == Device::cpu ? &traced<Device::cpu>(untraced) : &traced<Device::cuda>(untraced);
}

bool is_product(std::string_view kernel) {
    return kernel == "linear" || kernel == "linear_backward_input" || kernel == "linear_backward_weight" ||
           kernel == "batched_matmul";
}

}  // namespace vvtq::engine
