#include "apps/launch/job.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "apps/launch/meeting_file.h"
#include "apps/launch/report.h"
#include "apps/launch/server.h"
#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::apps {

using engine::concat;
using engine::run_error;

/// The connection belongs to the monitor thread, which sends a sign of life all the time and ends the process
/// where the job failed: the main thread may hang in a collective operation.
struct Job::State {
    State(const Place& where, const std::string& name, double timeout)
        : place(where), command(name), terms{program_version(), "", place.url, place.size, timeout} {}
    ~State();

    void join_job();
    void listen();
    void connect();
    std::unique_ptr<Connection> try_hosts(const std::vector<std::string>& hosts, int port, double limit,
                                          std::string& problem);
    bool greet(Connection& to, double limit, std::string& problem);
    void monitor();
    void handle(const Message& message);
    Message sign_of_life();
    void say(const Message& message);
    void send_outbox();
    void failed(const std::string& text, int status, bool tell_server);

    const Place place;
    const std::string command;
    JobTerms terms;
    Meeting meeting;
    std::string host0 = host_name();  // of rank 0
    std::string address;
    const int exceptions = std::uncaught_exceptions();
    std::unique_ptr<Server> server;          // of rank 0
    std::unique_ptr<Connection> connection;  // to it
    Descriptor wake{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};

    std::mutex mutex;  // guards what follows
    std::condition_variable changed;
    std::deque<Message> outbox;
    std::optional<std::vector<std::string>> texts;
    std::optional<Message> end;  // why the job failed
    bool welcomed = false, ready = false, left = false, stop = false;
    uint64_t count = 0;
    double progressed = 0;
    bool started = false, patient = false, exchanging = false, waiting = false;

    std::thread thread;
};

void Job::State::join_job() {
    if (place.rank == 0) {
        listen();
    } else {
        connect();
    }
    thread = start_thread([this] { monitor(); });
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return welcomed || end; });
    if (end) throw engine::Error(engine::Fault::run, end->at("text"));
    ready = true;
}

void Job::State::listen() {
    Descriptor listener(place.listener);
    if (place.size > 1) {
        meeting = parse_meeting(place.url, "--dist-url", true);
        const bool one_machine = place.machines == 1;
        if (!meeting.path.empty()) {
            meeting.host = one_machine ? "127.0.0.1" : "";
            terms.token = new_token();
        }
        if (listener.get() < 0) listener = listen_at(meeting);
        if (!meeting.path.empty()) {
            const std::vector<std::string> loopback = {"127.0.0.1"};
            write_meeting_file(meeting.path,
                               {terms.token, meeting.port, one_machine ? loopback : own_addresses()});
        } else {
            terms.url = meeting.url();
        }
    }
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
        run_error("no sockets: ", std::strerror(errno));
    }
    connection = std::make_unique<Connection>(Descriptor(ends[0]));
    server = std::make_unique<Server>(terms, std::move(listener), Descriptor(ends[1]));
    std::string problem;
    greet(*connection, seconds_now() + terms.timeout, problem);
}

void Job::State::connect() {
    meeting = parse_meeting(place.url, "--dist-url");
    const double limit = seconds_now() + terms.timeout;
    std::string problem;
    do {
        std::vector<std::string> hosts = {meeting.host};
        int port = meeting.port;
        if (!meeting.path.empty()) {
            const auto there = read_meeting_file(meeting.path);
            if (!there) problem = "there is no file " + meeting.path;
            hosts = there ? there->hosts : std::vector<std::string>();
            port = there ? there->port : 0;
            terms.token = there ? there->token : "";
        }
        connection = try_hosts(hosts, port, limit, problem);
        if (!connection) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    } while (!connection && seconds_now() < limit);
    if (!connection) {
        run_error("rank ", place.rank, " (host ", host_name(), ") could not reach rank 0 at ", place.url,
                  " for ", std::lround(terms.timeout), " s: ", problem, ": start rank 0 there, and see that ",
                  "no firewall is between");
    }
    address = local_address(connection->socket());
}

std::unique_ptr<Connection> Job::State::try_hosts(const std::vector<std::string>& hosts, int port,
                                                  double limit, std::string& problem) {
    for (const std::string& host : hosts) {
        const double rest = std::max(0.0, limit - seconds_now());
        Descriptor socket = connect_to(host, port, std::min(5.0, rest), problem);
        if (socket.get() < 0) continue;
        auto found = std::make_unique<Connection>(std::move(socket));
        // What a file names may be gone, and its port may be another program's.
        const double patience = meeting.path.empty() ? rest : std::min(2.0, rest);
        if (greet(*found, seconds_now() + patience, problem)) return found;
    }
    return nullptr;
}

/// Says who this is and waits for the answer. False where something else listens there.
bool Job::State::greet(Connection& to, double limit, std::string& problem) {
    to.send({{"kind", "hello"},
             {"version", terms.version},
             {"token", terms.token},
             {"rank", place.rank},
             {"size", place.size},
             {"host", host_name()},
             {"pid", ::getpid()}});
    problem = "no answer";
    for (;;) {
        to.flush();
        to.receive();
        const auto answer = to.next();
        if (answer && answer->contains("text")) throw engine::Error(engine::Fault::run, answer->at("text"));
        if (answer && answer->contains("host")) {
            host0 = answer->at("host");
            to.trust();
            return true;
        }
        if (to.closed()) problem = "what listens there is no process of this job";
        const double rest = limit - seconds_now();
        if (to.closed() || rest <= 0) return false;
        pollfd answers{to.socket(), POLLIN, 0};
        ::poll(&answers, 1, static_cast<int>(std::ceil(1000 * rest)));
    }
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
