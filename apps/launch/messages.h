// messages: what the processes of a job send one another: a mark, a length, and an object in CBOR. Nothing
// that arrives is believed: a connection that sends anything else counts as broken.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "apps/launch/sockets.h"

namespace vvtq::apps {

/// An object; "kind" says which:
///   hello      to rank 0: version, token, rank, size, host, pid
///   here       answer: host (of rank 0)
///   welcome    to all, once everyone is there: address (of rank 0's machine as others see it)
///   alive      both ways all the time; to rank 0 with count, age, started, patient, exchanging, waiting
///   text       to rank 0: text;   texts: the answer, once all have sent theirs
///   fail       to rank 0: reason, status
///   end        both ways: the job failed: text, status
///   bye        to rank 0: this process is done;   left: the answer
using Message = nlohmann::json;

constexpr size_t kLargestText = size_t{1} << 20;  // bytes of one text of an exchange
constexpr size_t kAllTexts = size_t{1} << 26;     // of all texts together

class Connection {
  public:
    /// Takes the socket. Messages of a stranger may have 4 KiB.
    explicit Connection(Descriptor socket) : socket_(std::move(socket)) {}

    int socket() const { return socket_.get(); }
    /// Messages of a member of the job may be as large as all texts.
    void trust() { trusted_ = true; }

    /// Takes a message for sending.
    void send(const Message& message);
    /// Sends what the socket takes now.
    void flush();
    bool has_unsent() const { return !out_.empty(); }
    /// Reads what is there.
    void receive();
    /// The next whole message that was received.
    std::optional<Message> next();
    /// Whether the other side closed the connection, or sent what is no message. What was received before is
    /// still given out by `next`.
    bool closed() const { return closed_; }

  private:
    size_t limit() const;

    Descriptor socket_;
    bool trusted_ = false, closed_ = false;
    std::string in_, out_;
    size_t sent_ = 0;  // of out_
};

}  // namespace vvtq::apps
