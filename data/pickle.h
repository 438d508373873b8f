// pickle: Python's pickle streams read as what they are, a description of a value. Nothing is imported,
// called or executed: a class, a function and a call stay nodes that name them, and it is for the reader of a
// node to know the few names it understands.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace vvtq::data {

class Pickle {
  public:
    using Ref = uint32_t;  ///< a node's number

    enum class Kind {
        none,
        boolean,
        integer,
        real,
        text,   ///< str, UTF-8
        bytes,  ///< bytes or bytearray
        list,
        tuple,
        dict,  ///< items: key, value, key, value, ...
        set,
        global,      ///< text: "module.name"
        call,        ///< items[0] called with items[1]; further items: appended or set to the result
        persistent,  ///< items[0]: the id
    };
    static constexpr Ref kNothing = UINT32_MAX;

    struct Node {
        Kind kind = Kind::none;
        int64_t integer = 0;  ///< also of a boolean
        double real = 0;
        std::string_view text;   ///< into the stream
        std::string name;        ///< of a global
        std::vector<Ref> items;  ///< may lead back to this node
        Ref state = kNothing;    ///< what a call's result was built with
    };

    /// More than any checkpoint has: a dozen for a tensor.
    static constexpr Ref kMostNodes = Ref{1} << 20;

    /// Reads one stream from the start of `bytes`, which must outlive this. `file` appears in messages.
    /// Errors: input_error where the stream is truncated, damaged, has more than `most` values, or uses what
    /// torch.save never writes.
    Pickle(std::span<const uint8_t> bytes, std::string file, Ref most = kMostNodes);

    const Node& root() const { return at(root_); }
    const Node& at(Ref ref) const { return nodes_.at(ref); }
    /// Number of nodes; Refs are below it.
    Ref count() const { return static_cast<Ref>(nodes_.size()); }
    /// Bytes of the stream.
    size_t size() const { return position_; }

    /// The value of a dict's key; null where there is none.
    const Node* find(const Node& dict, std::string_view key) const;
    /// Whether `node` calls the global "module.name".
    bool calls(const Node& node, std::string_view global) const;

  private:
    [[noreturn]] void refuse(const char* reason) const;
    std::span<const uint8_t> take(uint64_t size);
    template <typename T>
    T number();
    std::string_view sized_text(uint64_t size);
    std::string_view line();
    void push_global(std::string_view module, std::string_view name);
    Ref add(Node node);
    void push(Node node) { stack_.push_back(add(std::move(node))); }
    Ref pop();
    std::vector<Ref> pop_to_mark();
    void push_group(Kind kind, std::vector<Ref> items);
    void extend(std::vector<Ref> items);
    void put(uint64_t key);
    void get(uint64_t key);
    int64_t long_integer(uint64_t size);
    bool step(uint8_t opcode);
    bool step_value(uint8_t opcode);
    bool step_object(uint8_t opcode);

    std::span<const uint8_t> bytes_;
    std::string file_;
    Ref most_;
    size_t position_ = 0;
    std::vector<Node> nodes_;
    std::vector<Ref> stack_, marks_, memo_;
    Ref root_ = 0;
};

}  // namespace vvtq::data
