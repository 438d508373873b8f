#include "apps/launch/job_state.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmath>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "apps/launch/meeting_file.h"
#include "apps/launch/report.h"
#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::apps {

using engine::concat;

void Job::State::join_job() {
    if (place.rank == 0) {
        listen();
    } else {
        connect();
    }
    thread = start_thread([this] { monitor(); });
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return welcomed || end; });
    if (end) {  // the fault of whoever ended the job
        throw engine::Error(end->at("status") == 2 ? engine::Fault::input : engine::Fault::run,
                            end->at("text"));
    }
    ready = true;
}

Job::State::~State() {
    {
        const std::lock_guard lock(mutex);
        if (ready && std::uncaught_exceptions() == exceptions) {
            outbox.push_back({{"kind", "bye"}});
        } else {
            stop = true;
        }
    }
    say(nullptr);
    if (thread.joinable()) thread.join();
    connection.reset();
    server.reset();
    if (place.rank == 0 && !meeting.path.empty()) remove_meeting_file(meeting.path, terms.token);
}

/// Has the monitor send it.
void Job::State::say(const Message& message) {
    if (!message.is_null()) {
        const std::lock_guard lock(mutex);
        outbox.push_back(message);
    }
    const uint64_t one = 1;
    data::write_all(wake.get(), &one, sizeof one);
}

void Job::State::send_outbox() {
    const std::lock_guard lock(mutex);
    for (; !outbox.empty(); outbox.pop_front()) connection->send(outbox.front());
}

Message Job::State::sign_of_life() {
    const std::lock_guard lock(mutex);
    return {{"kind", "alive"},    {"count", count},     {"age", seconds_now() - progressed},
            {"started", started}, {"patient", patient}, {"exchanging", exchanging},
            {"waiting", waiting}};
}

void Job::State::monitor() {
    PauseMeter pause(terms.interval());
    double heard = seconds_now(), said = 0;
    const std::string name = concat("rank 0 (host ", host0, ")");
    for (;;) {
        {
            const std::lock_guard lock(mutex);
            if (left || stop || end) return;
        }
        send_outbox();
        if (seconds_now() - said >= terms.interval()) {
            said = seconds_now();
            connection->send(sign_of_life());
        }
        connection->flush();
        const auto events = static_cast<short>(connection->has_unsent() ? POLLIN | POLLOUT : POLLIN);
        pollfd sources[] = {{connection->socket(), events, 0}, {wake.get(), POLLIN, 0}};
        ::poll(sources, 2, static_cast<int>(500 * terms.interval()));
        uint64_t wakes = 0;
        if (::read(wake.get(), &wakes, sizeof wakes) < 0) wakes = 0;
        if (const double missed = pause.missed(); missed > 0) {
            const std::lock_guard lock(mutex);
            heard += missed;
            progressed += missed;
        }
        connection->receive();
        try {
            while (const auto message = connection->next()) {
                heard = seconds_now();
                handle(*message);
            }
        } catch (const nlohmann::json::exception&) {
            failed(name + ": sent a message that cannot be read", 1, true);
        }
        if (connection->closed()) {
            failed(name + ": connection lost: the process died or its machine is unreachable", 1, false);
        } else if (const double silent = seconds_now() - heard; silent > terms.silence()) {
            failed(concat(name, ": has not answered for ", std::lround(silent), " s"), 1, true);
        }
    }
}

void Job::State::handle(const Message& message) {
    const std::string kind = message.at("kind");
    if (kind == "end") return failed(message.at("text"), message.at("status"), false);
    const std::lock_guard lock(mutex);
    if (kind == "welcome") {
        const std::string other = message.at("address");
        if (address.empty() || (is_loopback(address) && !other.empty())) address = other;
        if (address.empty()) address = "127.0.0.1";
        welcomed = true;
    } else if (kind == "texts") {
        texts = message.at("texts").get<std::vector<std::string>>();
        exchanging = false;
        count = 0;
        progressed = seconds_now();
    } else if (kind == "left") {
        left = true;
    }
    changed.notify_all();
}

/// The end of the process, or of the constructor.
void Job::State::failed(const std::string& text, int status, bool tell_server) {
    bool over = false;
    {
        const std::lock_guard lock(mutex);
        if (end || left || stop) return;
        over = ready;
        end = Message{{"text", text}, {"status", status}};
        changed.notify_all();
    }
    if (tell_server) connection->send({{"kind", "end"}, {"text", text}, {"status", status}});
    connection->flush();
    if (server) server->wait_until_told();
    if (!over) return;
    report(command, {place.rank, status, true, false, text});
    if (server && !meeting.path.empty()) remove_meeting_file(meeting.path, terms.token);
    ::_exit(status);
}

Job::Job(const Place& place, const std::string& command, double timeout)
    : state_(std::make_unique<State>(place, command, timeout)) {
    state_->join_job();
}

Job::~Job() = default;

const Place& Job::place() const { return state_->place; }

std::string Job::address() const { return state_->address; }

std::vector<std::string> Job::exchange(const std::string& own) {
    VVTQ_CHECK(own.size() <= kLargestText, "a text of ", own.size(), " bytes");
    {
        const std::lock_guard lock(state_->mutex);
        state_->texts.reset();
        state_->exchanging = true;
    }
    state_->say({{"kind", "text"}, {"text", own}});
    std::unique_lock lock(state_->mutex);
    state_->changed.wait(lock, [&] { return state_->texts.has_value(); });
    return *state_->texts;
}

void Job::progress(bool patient) {
    const std::lock_guard lock(state_->mutex);
    ++state_->count;
    state_->progressed = seconds_now();
    state_->patient = patient;
    state_->started = true;
    state_->waiting = false;
}

void Job::waiting(bool on) {
    const std::lock_guard lock(state_->mutex);
    state_->waiting = on;
}

void Job::fail(const std::string& reason, int status) {
    state_->say({{"kind", "fail"}, {"reason", reason}, {"status", status}});
    const double limit = seconds_now() + 10;
    while (seconds_now() < limit) ::sleep(1);  // the monitor ends the process
    report(state_->command, {state_->place.rank, status, false, false, reason});
    ::_exit(status);
}

}  // namespace vvtq::apps
