#include "apps/launch/messages.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

namespace vvtq::apps {
namespace {

constexpr char kMark[] = "vvtqJOB1";
constexpr size_t kMarkSize = sizeof kMark - 1, kHeader = kMarkSize + sizeof(uint32_t);
constexpr size_t kPiece = size_t{1} << 16;

}  // namespace

size_t Connection::limit() const { return trusted_ ? kAllTexts + (size_t{1} << 20) : 4096; }

void Connection::send(const Message& message) {
    std::string body;
    nlohmann::json::to_cbor(message, body);
    const uint32_t size = static_cast<uint32_t>(body.size());
    char length[4];
    for (int i = 0; i < 4; ++i) length[i] = static_cast<char>(size >> (8 * i));
    out_.append(kMark, kMarkSize).append(length, sizeof length).append(body);
}

void Connection::flush() {
    while (sent_ < out_.size()) {
        const ssize_t count =
            ::send(socket_.get(), out_.data() + sent_, out_.size() - sent_, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count >= 0) {
            sent_ += static_cast<size_t>(count);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            return;
        } else if (errno != EINTR) {
            break;  // what the other side has sent before can still be read
        }
    }
    out_.clear();
    sent_ = 0;
}

void Connection::receive() {
    char piece[kPiece];
    while (!closed_ && in_.size() < kHeader + limit()) {
        const ssize_t count = ::recv(socket_.get(), piece, sizeof piece, MSG_DONTWAIT);
        if (count > 0) {
            in_.append(piece, static_cast<size_t>(count));
        } else if (count < 0 && errno == EINTR) {
            continue;
        } else if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            return;
        } else {
            closed_ = true;
        }
    }
}

std::optional<Message> Connection::next() {
    if (std::memcmp(in_.data(), kMark, std::min(in_.size(), kMarkSize)) != 0) {
        closed_ = true;
        in_.clear();
    }
    if (in_.size() < kHeader) return std::nullopt;
    size_t size = 0;
    for (size_t i = 0; i < 4; ++i) size |= size_t{static_cast<uint8_t>(in_[kMarkSize + i])} << (8 * i);
    if (size <= limit() && in_.size() < kHeader + size) return std::nullopt;
    Message message;
    if (size <= limit()) {
        const auto begin = in_.begin() + kHeader;
        message = Message::from_cbor(begin, begin + static_cast<std::ptrdiff_t>(size), true, false);
        in_.erase(0, kHeader + size);
    }
    const auto kind = message.is_object() ? message.find("kind") : message.end();
    if (!message.is_object() || kind == message.end() || !kind->is_string()) {
        closed_ = true;
        in_.clear();
        return std::nullopt;
    }
    return message;
}

}  // namespace vvtq::apps
