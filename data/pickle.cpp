#include "data/pickle.h"

#include <bit>
#include <cstring>

#include "data/bytes.h"
#include "data/pickle_opcodes.h"
#include "engine/check.h"

namespace vvtq::data {

void Pickle::refuse(const char* reason) const {
    engine::input_error("'", printable(file_), "' is damaged or no file of torch.save (pickle byte ",
                        position_, ": ", reason, "): fetch it again");
}

std::span<const uint8_t> Pickle::take(uint64_t size) {
    if (size > bytes_.size() - position_) refuse("it ends too early");
    const auto taken = bytes_.subspan(position_, size);
    position_ += size;
    return taken;
}

template <typename T>
T Pickle::number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
}

std::string_view Pickle::sized_text(uint64_t size) {
    const auto taken = take(size);
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
}

std::string_view Pickle::line() {
    const auto rest = bytes_.subspan(position_);
    const void* end = rest.empty() ? nullptr : std::memchr(rest.data(), '\n', rest.size());
    if (end == nullptr) refuse("it ends too early");
    const auto size = static_cast<size_t>(static_cast<const uint8_t*>(end) - rest.data());
    const std::string_view text = sized_text(size);
    take(1);
    return text;
}

void Pickle::push_global(std::string_view module, std::string_view name) {
    constexpr size_t kLongest = 200;  // a few bytes can name a text again and again
    if (module.size() > kLongest || name.size() > kLongest) refuse("a class with a long name");
    Node node;
    node.kind = Kind::global;
    node.name = engine::concat(module, ".", name);
    push(std::move(node));
}

Pickle::Ref Pickle::add(Node node) {
    if (nodes_.size() >= most_)
        refuse("too many values");  // one takes a hundred times the byte asking for it
    nodes_.push_back(std::move(node));
    return static_cast<Ref>(nodes_.size() - 1);
}

Pickle::Ref Pickle::pop() {
    const size_t floor = marks_.empty() ? 0 : marks_.back();
    if (stack_.size() <= floor) refuse("a value is missing");
    const Ref ref = stack_.back();
    stack_.pop_back();
    return ref;
}

std::vector<Pickle::Ref> Pickle::pop_to_mark() {
    if (marks_.empty()) refuse("a mark is missing");
    const auto begin = stack_.begin() + marks_.back();
    marks_.pop_back();
    std::vector<Ref> items(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    return items;
}

void Pickle::push_group(Kind kind, std::vector<Ref> items) {
    if (kind == Kind::dict && items.size() % 2 != 0) refuse("a key without a value");
    Node node;
    node.kind = kind;
    node.items = std::move(items);
    push(std::move(node));
}

// Appends to the list, dict, set or call result on top of the stack.
void Pickle::extend(std::vector<Ref> items) {
    const Ref target = pop();
    stack_.push_back(target);
    Node& node = nodes_[target];
    const bool open = node.kind == Kind::list || node.kind == Kind::dict || node.kind == Kind::set ||
                      node.kind == Kind::call;
    if (!open) refuse("items for what cannot hold any");
    if (node.kind == Kind::dict && items.size() % 2 != 0) refuse("a key without a value");
    node.items.insert(node.items.end(), items.begin(), items.end());
}

void Pickle::put(uint64_t key) {
    // Keys count up from 0 in every known writer, so a key never needs more room than there are bytes.
    if (key > bytes_.size()) refuse("a memo number out of range");
    if (memo_.size() <= key) memo_.resize(key + 1, kNothing);
    const Ref top = pop();
    stack_.push_back(top);
    memo_[key] = top;
}

void Pickle::get(uint64_t key) {
    if (key >= memo_.size() || memo_[key] == kNothing) refuse("an unknown memo number");
    stack_.push_back(memo_[key]);
}

int64_t Pickle::long_integer(uint64_t size) {
    const auto digits = take(size);
    if (size == 0) return 0;
    const bool negative = digits.back() >= 0x80;
    uint64_t value = negative ? ~uint64_t{0} : 0;
    for (size_t i = 0; i < size; ++i) {
        if (i < 8) {
            value &= ~(uint64_t{0xFF} << (8 * i));
            value |= uint64_t{digits[i]} << (8 * i);
        }
    }
    // Of larger numbers (torch's magic number) the lower 64 bits are kept; nothing asks for more.
    return static_cast<int64_t>(value);
}

bool Pickle::step_value(uint8_t opcode) {
    Node node;
    const auto integer = [&](int64_t value, Kind kind = Kind::integer) {
        node.kind = kind;
        node.integer = value;
    };
    const auto text = [&](Kind kind, uint64_t size) {
        node.kind = kind;
        node.text = sized_text(size);
    };
    switch (opcode) {
        case kNone:
            break;
        case kTrue:
            integer(1, Kind::boolean);
            break;
        case kFalse:
            integer(0, Kind::boolean);
            break;
        case kInt4:
            integer(number<int32_t>());
            break;
        case kInt1:
            integer(number<uint8_t>());
            break;
        case kInt2:
            integer(number<uint16_t>());
            break;
        case kLong1:
            integer(long_integer(number<uint8_t>()));
            break;
        case kLong4:
            integer(long_integer(number<uint32_t>()));
            break;
        case kFloat:
            node.kind = Kind::real;
            node.real = std::bit_cast<double>(__builtin_bswap64(number<uint64_t>()));
            break;
        case kText1:
            text(Kind::text, number<uint8_t>());
            break;
        case kText4:
            text(Kind::text, number<uint32_t>());
            break;
        case kText8:
            text(Kind::text, number<uint64_t>());
            break;
        case kString1:
            text(Kind::bytes, number<uint8_t>());
            break;
        case kString4:
            text(Kind::bytes, number<uint32_t>());
            break;
        case kBytes1:
            text(Kind::bytes, number<uint8_t>());
            break;
        case kBytes4:
            text(Kind::bytes, number<uint32_t>());
            break;
        case kBytes8:
            text(Kind::bytes, number<uint64_t>());
            break;
        case kByteArray8:
            text(Kind::bytes, number<uint64_t>());
            break;
        default:
            return false;
    }
    push(std::move(node));
    return true;
}

bool Pickle::step_object(uint8_t opcode) {
    switch (opcode) {
        case kGlobal: {
            const std::string_view module = line();
            push_global(module, line());
            return true;
        }
        case kStackGlobal: {
            const Node& name = nodes_[pop()];
            const Node& module = nodes_[pop()];
            if (name.kind != Kind::text || module.kind != Kind::text) refuse("a class without a name");
            push_global(module.text, name.text);
            return true;
        }
        case kReduce:
        case kNewObject: {
            const Ref arguments = pop();
            push_group(Kind::call, {pop(), arguments});
            return true;
        }
        case kNewObjectKeywords: {
            pop();
            const Ref arguments = pop();
            push_group(Kind::call, {pop(), arguments});
            return true;
        }
        case kBuild: {
            const Ref state = pop();
            const Ref target = pop();
            stack_.push_back(target);
            nodes_[target].state = state;
            return true;
        }
        case kBinPersonId:
            push_group(Kind::persistent, {pop()});
            return true;
        case kPersonId: {
            Node node;
            node.kind = Kind::text;
            node.text = line();
            push_group(Kind::persistent, {add(std::move(node))});
            return true;
        }
        default:
            return false;
    }
}

// False at the end of the stream.
bool Pickle::step(uint8_t opcode) {
    if (step_value(opcode) || step_object(opcode)) return true;
    const auto tuple = [&](size_t size) {
        std::vector<Ref> items(size);
        for (size_t i = size; i > 0; --i) items[i - 1] = pop();
        push_group(Kind::tuple, std::move(items));
    };
    switch (opcode) {
        case kStop:
            root_ = pop();
            return false;
        case kProtocol:
            take(1);
            break;
        case kFrame:
            take(8);
            break;
        case kMark:
            marks_.push_back(static_cast<Ref>(stack_.size()));
            break;
        case kPop:
            pop();
            break;
        case kPopMark:
            pop_to_mark();
            break;
        case kDup: {
            const Ref top = pop();
            stack_.insert(stack_.end(), 2, top);
            break;
        }
        case kEmptyDict:
            push_group(Kind::dict, {});
            break;
        case kEmptyList:
            push_group(Kind::list, {});
            break;
        case kEmptyTuple:
            push_group(Kind::tuple, {});
            break;
        case kEmptySet:
            push_group(Kind::set, {});
            break;
        case kFrozenSet:
            push_group(Kind::set, pop_to_mark());
            break;
        case kDict:
            push_group(Kind::dict, pop_to_mark());
            break;
        case kList:
            push_group(Kind::list, pop_to_mark());
            break;
        case kTuple:
            push_group(Kind::tuple, pop_to_mark());
            break;
        case kTuple1:
            tuple(1);
            break;
        case kTuple2:
            tuple(2);
            break;
        case kTuple3:
            tuple(3);
            break;
        case kAppend:
            extend({pop()});
            break;
        case kSetItem: {
            const Ref value = pop();
            const Ref key = pop();
            extend({key, value});
            break;
        }
        case kAppends:
        case kSetItems:
        case kAddItems:
            extend(pop_to_mark());
            break;
        case kPut1:
            put(number<uint8_t>());
            break;
        case kPut4:
            put(number<uint32_t>());
            break;
        case kMemoize:
            put(memo_.size());
            break;
        case kGet1:
            get(number<uint8_t>());
            break;
        case kGet4:
            get(number<uint32_t>());
            break;
        default:
            refuse("an unknown opcode");
    }
    return true;
}

Pickle::Pickle(std::span<const uint8_t> bytes, std::string file, Ref most)
    : bytes_(bytes), file_(std::move(file)), most_(most) {
    while (step(number<uint8_t>())) {
    }
}

const Pickle::Node* Pickle::find(const Node& dict, std::string_view key) const {
    for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
        const Node& name = at(dict.items[i]);
        if (name.kind == Kind::text && name.text == key) return &at(dict.items[i + 1]);
    }
    return nullptr;
}

bool Pickle::calls(const Node& node, std::string_view global) const {
    if (node.kind != Kind::call) return false;
    const Node& callee = at(node.items[0]);
    return callee.kind == Kind::global && callee.name == global;
}

}  // namespace vvtq::data
