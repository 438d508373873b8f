#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>

#include "apps/launch/job_state.h"
#include "apps/launch/meeting_file.h"
#include "engine/check.h"

namespace vvtq::apps {

using engine::run_error;

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

}  // namespace vvtq::apps
