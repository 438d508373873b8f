#include "apps/launch/server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <functional>

#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::apps {

using engine::concat;

namespace {

constexpr size_t kStrangers = 256;    // connections that have not said hello yet
constexpr double kStrangerTime = 10;  // seconds that they may stay
constexpr double kFarewell = 1;       // seconds for the others to take the message that the job ended

}  // namespace

std::string text_of(const Message& message, const char* key) {
    return data::printable(message.at(key).get_ref<const std::string&>());
}

std::string program_version() { return VVTQ_VERSION; }

double PauseMeter::missed() {
    const double now = seconds_now(), since = now - last_;
    last_ = now;
    return since > usual_ ? since : 0;
}

std::thread start_thread(std::function<void()> work) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    std::thread thread(std::move(work));
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return thread;
}

Server::Server(const JobTerms& terms, Descriptor listener, Descriptor own)
    : terms_(terms),
      listener_(std::move(listener)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      members_(static_cast<size_t>(terms.size)),
      start_(seconds_now()),
      now_(start_) {
    strangers_.push_back(std::make_unique<Member>(std::move(own)));
    thread_ = start_thread([this] { run(); });
}

Server::~Server() {
    stop_ = true;
    const uint64_t one = 1;
    data::write_all(wake_.get(), &one, sizeof one);
    thread_.join();
}

void Server::wait_until_told() const {
    const double limit = seconds_now() + 3 * kFarewell;
    while (!told_ && seconds_now() < limit) ::usleep(5000);
}

void Server::run() {
    PauseMeter pause(terms_.interval());
    while (!done_ && end_.is_null() && !stop_) {
        wait_for_bytes();
        now_ = seconds_now();
        if (const double missed = pause.missed(); missed > 0) {
            for (const auto& member : members_) {
                if (member) member->heard += missed, member->progressed += missed;
            }
        }
        accept_strangers();
        read_strangers();
        read_members();
        if (!done_ && end_.is_null()) check();
    }
    if (!end_.is_null()) tell_all();
    told_ = true;
}

void Server::wait_for_bytes() {
    std::vector<pollfd> waiting = {{wake_.get(), POLLIN, 0}};
    if (listener_.get() >= 0 && strangers_.size() < kStrangers)
        waiting.push_back({listener_.get(), POLLIN, 0});
    for (const auto* list : {&members_, &strangers_}) {
        for (const auto& member : *list) {
            if (!member || member->connection.closed()) continue;
            const bool unsent = member->connection.has_unsent();
            const auto events = static_cast<short>(unsent ? POLLIN | POLLOUT : POLLIN);
            waiting.push_back({member->connection.socket(), events, 0});
        }
    }
    ::poll(waiting.data(), waiting.size(), static_cast<int>(500 * terms_.interval()));
}

void Server::accept_strangers() {
    while (listener_.get() >= 0 && strangers_.size() < kStrangers) {
        Descriptor socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (socket.get() < 0) return;
        strangers_.push_back(std::make_unique<Member>(std::move(socket)));
    }
}

void Server::read_strangers() {
    for (auto& stranger : strangers_) {
        Connection& connection = stranger->connection;
        connection.flush();
        connection.receive();
        try {
            if (const auto message = connection.next(); message && message->at("kind") == "hello") {
                hello(std::move(stranger), *message);
                continue;
            }
        } catch (const nlohmann::json::exception&) {
            stranger.reset();
            continue;
        }
        if (connection.closed() || now_ - stranger->heard > kStrangerTime) stranger.reset();
    }
    std::erase(strangers_, nullptr);
}

/// A process says who it is. One that does not fit is told so; before everyone is there it ends the job,
/// which could only wait for the right one in vain.
void Server::hello(MemberPointer stranger, const Message& message) {
    if (message.at("token") != terms_.token) return;  // of another job: the connection is closed
    if (stranger->connection.closed()) return;        // it gave up, and may come again
    const std::string version = text_of(message, "version");
    const int size = message.at("size").get<int>();
    stranger->rank = message.at("rank").get<int>();
    stranger->pid = message.at("pid").get<int>();
    stranger->host = text_of(message, "host");
    std::string fault;
    const bool own =
        stranger->rank == 0 && !members_[0] && local_address(stranger->connection.socket()).empty();
    const std::string other = own || !members_[0] ? "rank 0" : members_[0]->name();
    if (version != terms_.version) {
        fault = concat(stranger->name(), " runs vvtq ", version, ", but ", other, " runs vvtq ",
                       terms_.version, ": use the same program everywhere");
    } else if (size != terms_.size) {
        fault = concat(stranger->name(), " was started for a job of ", size, " processes, but ", other,
                       " for one of ", terms_.size, ": start all with the same number");
    } else if (stranger->rank < 0 || stranger->rank >= size) {
        fault = concat(stranger->name(), ": this job has the ranks 0 to ", size - 1);
    } else if (const auto& there = members_[static_cast<size_t>(stranger->rank)];
               there || (stranger->rank == 0 && !own)) {
        fault = concat("rank ", stranger->rank,
                       " was started twice: ", there ? there->process() : "the one that listens", " and ",
                       stranger->process(), ": give each process its own rank");
    }
    if (fault.empty()) {
        Member& member = *(members_[static_cast<size_t>(stranger->rank)] = std::move(stranger));
        member.connection.trust();
        member.connection.send({{"kind", "here"}, {"host", host_name()}});
        member.connection.flush();
        if (std::count(members_.begin(), members_.end(), nullptr) == 0) welcome();
        return;
    }
    stranger->connection.send({{"kind", "end"}, {"text", fault}, {"status", 1}});
    stranger->connection.flush();
    if (!complete_) end_job(fault, 1);
}

void Server::welcome() {
    complete_ = true;
    std::string address;
    for (const auto& member : members_) {
        const std::string local = local_address(member->connection.socket());
        if (address.empty() || (is_loopback(address) && !local.empty())) address = local;
    }
    send_all({{"kind", "welcome"}, {"address", address}});
}

void Server::read_members() {
    for (const auto& member : members_) {
        if (!member || !end_.is_null()) continue;
        Connection& connection = member->connection;
        if (connection.closed()) continue;
        connection.flush();
        connection.receive();
        try {
            while (const auto message = connection.next()) handle(*member, *message);
        } catch (const nlohmann::json::exception&) {
            end_job(concat(member->name(), ": sent a message that cannot be read"), 1);
        }
        if (connection.closed() && !member->left && end_.is_null()) lost(*member);
    }
    if (end_.is_null()) say_good_bye();
    if (end_.is_null() && !done_) pass_texts_on();
}

void Server::handle(Member& member, const Message& message) {
    const std::string kind = message.at("kind");
    member.heard = now_;
    if (kind == "alive") {
        message.at("count").get_to(member.count);
        member.progressed = now_ - message.at("age").get<double>();
        message.at("started").get_to(member.started);
        message.at("patient").get_to(member.patient);
        message.at("exchanging").get_to(member.exchanging);
        message.at("waiting").get_to(member.waiting);
    } else if (kind == "text") {
        member.text = message.at("text").get<std::string>();
        member.exchanging = true;
    } else if (kind == "fail") {
        member.failure = message;
        if (failed_ != nullptr) return;
        failed_ = &member;
        failed_at_ = now_;
    } else if (kind == "end") {
        end_job(text_of(message, "text"), message.at("status").get<int>());
    } else if (kind == "bye") {
        member.left = true;
    }
}

void Server::pass_texts_on() {
    const auto waits = [](const MemberPointer& member) { return member && member->text; };
    if (std::none_of(members_.begin(), members_.end(), waits)) return;
    Message texts = Message::array();
    size_t bytes = 0;
    for (const auto& member : members_) {
        if (member && member->left) {
            return end_job(concat(member->name(), ": ended while the others went on"), 1);
        }
        if (!waits(member)) return;
        bytes += member->text->size();
        texts.push_back(*member->text);
    }
    if (bytes > kAllTexts) return end_job("the texts that the processes exchange are too large", 1);
    for (const auto& member : members_) {
        member->text.reset();
        member->exchanging = false;
        member->progressed = now_;
        member->count = 0;
    }
    send_all({{"kind", "texts"}, {"texts", texts}});
}

/// Rank 0 goes last, because the server lives in it.
void Server::say_good_bye() {
    bool others_left = complete_;
    for (size_t rank = members_.size(); rank-- > 0;) {
        Member* member = members_[rank].get();
        if (member == nullptr || !member->left || (rank == 0 && !others_left)) {
            others_left = false;
            continue;
        }
        if (!member->answered) {
            member->answered = true;
            member->connection.send({{"kind", "left"}});
            member->connection.flush();
        }
        done_ = rank == 0;
    }
}

/// Connections are closed by the others first: closing one with unread bytes would drop what it sends.
void Server::tell_all() {
    send_all(end_);
    const double limit = seconds_now() + kFarewell;
    const auto gone = [](const MemberPointer& member) {
        return !member || member->connection.closed() || member->rank == 0;
    };
    while (!std::all_of(members_.begin(), members_.end(), gone) && seconds_now() < limit && !stop_) {
        wait_for_bytes();
        for (const auto& member : members_) {
            if (!member) continue;
            member->connection.flush();
            member->connection.receive();
            while (member->connection.next()) {
            }
        }
    }
}

void Server::send_all(const Message& message) {
    for (const auto& member : members_) {
        if (!member || member->connection.closed() || member->answered) continue;
        member->connection.send(message);
        member->connection.flush();
    }
}

}  // namespace vvtq::apps
