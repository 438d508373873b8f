#include "autograd/variable.h"

#include <algorithm>
#include <atomic>
#include <unordered_set>
#include <utility>

#include "autograd/trace.h"
#include "engine/kernels.h"

namespace vvtq::autograd {

using engine::DType;
using engine::kernels;
using engine::Shape;

struct Variable::State {
    Tensor value;
    Tensor grad;
    bool requires_grad = false;
    DType gradient = DType::f32;  // dtype of its gradient
    std::shared_ptr<Node> node;   // null for leaves and constants
    size_t output = 0;            // which of the node's outputs
};

/// One op on the tape. It holds edges to its inputs, not their values; the closure saves the tensors that
/// backward needs.
struct Node {
    /// Where the gradient of one input goes: to the node that made it or to a leaf; neither where none is
    /// wanted.
    struct Edge {
        std::shared_ptr<Node> node;
        std::shared_ptr<Variable::State> leaf;
        DType dtype;
        size_t output = 0;  // of the node
    };

    Node(const char* name, size_t outputs, const std::vector<Variable>& inputs, BackwardOfMany function);
    ~Node();
    Node(const Node&) = delete;
    Node& operator=(const Node&) = delete;

    static Edge edge_to(const Variable& x);

    const char* op;
    uint64_t id;  // later nodes have larger ids, so descending ids visit consumers before producers
    bool used = false;
    bool awaited = false;  // a gradient has arrived
    BackwardOfMany backward;
    Gradients gradients;
    std::vector<Edge> edges;
    std::vector<Tensor> upstream;  // of each output
};

namespace {

thread_local bool recording = true;
thread_local bool checking_finite = false;
thread_local std::function<void(const void*)> leaf_watcher;

struct ScopePath {
    std::string path;
    std::vector<size_t> lengths;  // of the path before each open scope
};
ScopePath& scope_path() {
    thread_local ScopePath path;
    return path;
}

/// Releases edges one after the other. A node's destructor that runs meanwhile hands its edges to the same
/// list instead of recursing, so the length of a tape is not limited by the stack.
void release(std::vector<Node::Edge> edges) {
    thread_local std::vector<Node::Edge>* open = nullptr;
    if (open != nullptr) {
        std::move(edges.begin(), edges.end(), std::back_inserter(*open));
        return;
    }
    open = &edges;
    while (!edges.empty()) {
        const Node::Edge last = std::move(edges.back());
        edges.pop_back();
    }
    open = nullptr;
}

/// total += g. Writes in place only where no other handle can see the memory.
void accumulate(Tensor& total, Tensor g) {
    if (!total.defined()) {
        total = std::move(g);
    } else if (total.sole_owner()) {
        kernels(g.device()).accumulate_add(g, total);
    } else {
        Tensor both = total.like();
        kernels(g.device()).add(total, g, both);
        total = std::move(both);
    }
}

bool earlier(const std::shared_ptr<Node>& a, const std::shared_ptr<Node>& b) { return a->id < b->id; }

/// The walk back from one variable.
class Walk {
  public:
    void send(const Node::Edge& edge, Tensor g) {
        if (edge.leaf) {
            accumulate(edge.leaf->grad, std::move(g));
            leaves_.push_back(edge.leaf);
            if (leaf_watcher) leaf_watcher(edge.leaf.get());
            return;
        }
        Node& node = *edge.node;
        VVTQ_CHECK(!node.used, "backward reached ", node.op,
                   " a second time; the tape is freed by the first walk");
        VVTQ_CHECK(node.backward, "op ", node.op, " has no backward, but a gradient is asked through it");
        if (!node.awaited) {
            node.awaited = true;
            heap_.push_back(edge.node);
            std::push_heap(heap_.begin(), heap_.end(), earlier);
        }
        accumulate(node.upstream[edge.output], std::move(g));
    }

    /// `taken`: memory of the caller, which no leaf may keep.
    void run(std::unordered_set<const void*> taken) {
        while (!heap_.empty()) {
            std::pop_heap(heap_.begin(), heap_.end(), earlier);
            const std::shared_ptr<Node> node = std::move(heap_.back());
            heap_.pop_back();
            visit(*node);
        }
        for (const auto& leaf :
             leaves_) {  // callers may write to gradients, so no two may be the same memory
            if (!seen_.insert(leaf.get()).second) continue;
            if (!taken.insert(leaf->grad.raw()).second) leaf->grad = leaf->grad.clone();
        }
    }

  private:
    void visit(Node& node) {
        node.used = true;
        {
            const BackwardOfMany backward = std::exchange(node.backward, nullptr);
            const std::vector<Tensor> dy = std::exchange(node.upstream, {});
            backward(dy, node.gradients);
        }
        const Gradients gradients = std::exchange(node.gradients, Gradients({}));
        std::vector<Node::Edge> edges = std::exchange(node.edges, {});
        for (size_t i = 0; i < edges.size(); ++i) {
            if (!edges[i].node && !edges[i].leaf) continue;
            const Tensor& g = gradients.at(i);
            VVTQ_CHECK(g.defined(), "backward of ", node.op, " left input ", i, " without a gradient");
            VVTQ_CHECK(g.dtype() == edges[i].dtype, "backward of ", node.op, " gave input ", i,
                       " a gradient of ", engine::name_of(g.dtype()));
            send(edges[i], g);
        }
        release(std::move(edges));
    }

    std::vector<std::shared_ptr<Node>> heap_;
    std::vector<std::shared_ptr<Variable::State>> leaves_;
    std::unordered_set<const void*> seen_;
};

}  // namespace

Node::Edge Node::edge_to(const Variable& x) {
    if (!x.requires_grad()) {
        return {nullptr, nullptr, DType::f32};
    }
    const auto& state = x.state_;
    return {state->node, state->node ? nullptr : state, state->gradient, state->output};
}

Node::Node(const char* name, size_t outputs, const std::vector<Variable>& inputs, BackwardOfMany function)
    : op(name), backward(std::move(function)), gradients(inputs), upstream(outputs) {
    static std::atomic<uint64_t> next{0};
    id = next.fetch_add(1, std::memory_order_relaxed);
    edges.reserve(inputs.size());
    for (const Variable& x : inputs) edges.push_back(edge_to(x));
}

Node::~Node() { release(std::move(edges)); }

Gradients::Gradients(const std::vector<Variable>& inputs) : values_(inputs.size()) {
    shapes_.reserve(inputs.size());
    wanted_.reserve(inputs.size());
    for (const Variable& x : inputs) {
        shapes_.push_back(x.defined() ? x.shape() : Shape());
        wanted_.push_back(x.requires_grad());
    }
}

bool Gradients::wanted(size_t i) const { return wanted_.at(i) != 0; }

void Gradients::set(size_t i, Tensor gradient) {
    if (!wanted(i)) return;
    VVTQ_CHECK(gradient.defined() && gradient.shape() == shapes_[i], "gradient of input ", i, " has shape ",
               gradient.shape().str(), ", the input ", shapes_[i].str());
    values_[i] = std::move(gradient);
}

Variable::Variable(Tensor value, bool requires_grad) : state_(std::make_shared<State>()) {
    VVTQ_CHECK(value.defined(), "a variable needs a value");
    VVTQ_CHECK(!requires_grad || engine::is_floating(value.dtype()), "no gradients for ",
               engine::name_of(value.dtype()));
    state_->gradient = value.dtype();
    state_->value = std::move(value);
    state_->requires_grad = requires_grad;
}

Variable::Variable(Tensor value, DType gradient) : state_(std::make_shared<State>()) {
    VVTQ_CHECK(value.defined() && engine::is_floating(gradient), "no gradients of ",
               engine::name_of(gradient));
    state_->gradient = gradient;
    state_->value = std::move(value);
    state_->requires_grad = true;
}

const Tensor& Variable::value() const {
    VVTQ_CHECK(defined(), "undefined variable");
    return state_->value;
}

void Variable::set_value(Tensor value) {
    VVTQ_CHECK(defined() && !state_->node, "only leaves can be given a value");
    VVTQ_CHECK(value.defined() && value.shape() == shape() && value.dtype() == this->value().dtype(),
               "value of shape ", value.shape().str(), " ", engine::name_of(value.dtype()),
               " for a leaf of shape ", shape().str(), " ", engine::name_of(this->value().dtype()));
    state_->value = std::move(value);
}

bool Variable::requires_grad() const { return defined() && state_->requires_grad; }

DType Variable::gradient_dtype() const {
    VVTQ_CHECK(defined(), "an undefined variable");
    return state_->gradient;
}

const Tensor& Variable::grad() const {
    VVTQ_CHECK(defined(), "undefined variable");
    return state_->grad;
}

void Variable::clear_grad() {
    VVTQ_CHECK(defined(), "undefined variable");
    state_->grad = Tensor();
}

void Variable::set_grad(Tensor gradient) {
    VVTQ_CHECK(defined() && !state_->node, "only leaves can be given a gradient");
    VVTQ_CHECK(gradient.defined() && gradient.shape() == shape() && gradient.dtype() == state_->gradient,
               "gradient of shape ", gradient.shape().str(), " for a leaf of shape ", shape().str());
    state_->grad = std::move(gradient);
}

void Variable::backward(Tensor upstream) const {
    VVTQ_CHECK(requires_grad(), "backward from a variable that is not on the tape");
    const Tensor& y = value();
    if (!upstream.defined()) {
        VVTQ_CHECK(y.numel() == 1, "backward from shape ", y.shape().str(), " needs an upstream gradient");
        upstream = Tensor::full(y.shape(), 1.0, state_->gradient, y.device());
    }
    autograd::backward({*this}, {std::move(upstream)});
}

void backward(const std::vector<Variable>& ys, std::vector<Tensor> upstream) {
    VVTQ_CHECK(ys.size() == upstream.size(), upstream.size(), " upstream gradients for ", ys.size(),
               " variables");
    Walk walk;
    std::unordered_set<const void*> given;
    for (size_t i = 0; i < ys.size(); ++i) {
        const Variable& y = ys[i];
        VVTQ_CHECK(y.requires_grad(), "backward from a variable that is not on the tape");
        VVTQ_CHECK(upstream[i].shape() == y.shape() && upstream[i].dtype() == y.gradient_dtype(),
                   "upstream gradient of shape ", upstream[i].shape().str(), " for a value of shape ",
                   y.shape().str());
        given.insert(upstream[i].raw());
        walk.send(Node::edge_to(y), std::move(upstream[i]));
    }
    walk.run(std::move(given));
}

namespace {

/// Throws Error(Fault::run) where y has values that are not finite.
void check_finite(const char* op, const Tensor& y) {
    const Tensor count({1}, DType::i64, y.device());
    kernels(y.device()).count_not_finite(y, count);
    const auto bad = static_cast<int64_t>(count.item());
    if (bad == 0) return;
    const std::string where = Scope::current();
    engine::run_error(op, where.empty() ? "" : " in ", where, ": ", bad, " of ", y.numel(),
                      " values are not finite");
}

}  // namespace

std::vector<Variable> record(const char* op, std::vector<Output> ys, const std::vector<Variable>& inputs,
                             BackwardOfMany backward) {
    if (checking_finite) {
        for (const Output& y : ys) {
            if (engine::is_floating(y.value.dtype())) check_finite(op, y.value);
        }
    }
    const auto on_tape = [](const Variable& x) { return x.requires_grad(); };
    std::shared_ptr<Node> node;
    if (recording && std::any_of(inputs.begin(), inputs.end(), on_tape)) {
        node = std::make_shared<Node>(op, ys.size(), inputs, std::move(backward));
    }
    std::vector<Variable> outs;
    outs.reserve(ys.size());
    for (size_t i = 0; i < ys.size(); ++i) {
        Variable out(std::move(ys[i].value));
        out.state_->requires_grad = node != nullptr;
        out.state_->gradient = ys[i].gradient;
        out.state_->node = node;
        out.state_->output = i;
        outs.push_back(std::move(out));
    }
    if (Trace::active()) Trace::note(op, inputs, outs);
    return outs;
}

Variable record(const char* op, Output y, const std::vector<Variable>& inputs, Backward backward) {
    BackwardOfMany one;
    if (backward) {
        one = [function = std::move(backward)](const std::vector<Tensor>& dy, Gradients& dx) {
            function(dy[0], dx);
        };
    }
    return record(op, std::vector<Output>{std::move(y)}, inputs, std::move(one))[0];
}

bool is_recording() { return recording; }

NoGrad::NoGrad() : before_(std::exchange(recording, false)) {}
NoGrad::~NoGrad() { recording = before_; }

LeafWatch::LeafWatch(std::function<void(const void*)> arrived)
    : before_(std::exchange(leaf_watcher, std::move(arrived))) {}
LeafWatch::~LeafWatch() { leaf_watcher = std::move(before_); }

FiniteCheck::FiniteCheck() : before_(std::exchange(checking_finite, true)) {}
FiniteCheck::~FiniteCheck() { checking_finite = before_; }

Scope::Scope(const std::string& name) {
    ScopePath& scopes = scope_path();
    scopes.lengths.push_back(scopes.path.size());
    if (!scopes.path.empty() && !name.empty()) scopes.path += '.';
    scopes.path += name;
}

Scope::~Scope() {
    ScopePath& scopes = scope_path();
    scopes.path.resize(scopes.lengths.back());
    scopes.lengths.pop_back();
}

std::string Scope::current() { return scope_path().path; }

}  // namespace vvtq::autograd
