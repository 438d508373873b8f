#include "apps/launch/sockets.h"

#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <utility>

#include "apps/training/value_text.h"
#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace {

using engine::input_error;
using engine::run_error;
using Addresses = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

constexpr char kForms[] = "give tcp://HOST:PORT, tcp://[IPV6]:PORT, file:///PATH or env://";

/// Null, with the reason in `problem`, where the host is not known.
Addresses look_up(const std::string& host, int port, std::string& problem) {
    addrinfo hints = {}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV;
    const int status = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
    if (status != 0) problem = engine::concat("host ", host, ": ", ::gai_strerror(status));
    return {status == 0 ? found : nullptr, ::freeaddrinfo};
}

std::string digits(const sockaddr* address, socklen_t size) {
    char text[NI_MAXHOST] = "";
    if (::getnameinfo(address, size, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0) return "";
    const std::string host = text, mapped = "::ffff:";  // an IPv4 connection of an IPv6 socket
    return host.starts_with(mapped) && host.find('.') != std::string::npos ? host.substr(mapped.size())
                                                                           : host;
}

/// Listens, or leaves errno.
Descriptor listen_on(const sockaddr* address, socklen_t size, int family) {
    Descriptor listener(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int on = 1, off = 0;
    if (listener.get() < 0) return listener;
    ::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (family == AF_INET6) ::setsockopt(listener.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (::bind(listener.get(), address, size) != 0 || ::listen(listener.get(), SOMAXCONN) != 0) {
        const int reason = errno;
        listener.reset();
        errno = reason;
    }
    return listener;
}

Descriptor listen_everywhere(int port) {
    sockaddr_in6 six = {};
    six.sin6_family = AF_INET6;
    six.sin6_addr = in6addr_any;
    six.sin6_port = htons(static_cast<uint16_t>(port));
    Descriptor listener = listen_on(reinterpret_cast<const sockaddr*>(&six), sizeof six, AF_INET6);
    if (listener.get() >= 0 || errno == EADDRINUSE) return listener;
    sockaddr_in four = {};  // a machine without IPv6
    four.sin_family = AF_INET;
    four.sin_port = htons(static_cast<uint16_t>(port));
    return listen_on(reinterpret_cast<const sockaddr*>(&four), sizeof four, AF_INET);
}

int port_of(int socket) {
    sockaddr_storage address = {};
    socklen_t size = sizeof address;
    ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
    return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                               : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

/// Waits until a connection that was begun is there; 0 or the reason it is not.
int connected(int socket, double seconds) {
    pollfd waiting{socket, POLLOUT, 0};
    const double limit = seconds_now() + seconds;
    for (;;) {
        const int ready = ::poll(&waiting, 1, static_cast<int>(1000 * std::max(0.0, limit - seconds_now())));
        if (ready > 0) break;
        if (ready == 0) return ETIMEDOUT;
        if (errno != EINTR) return errno;
    }
    int reason = 0;
    socklen_t size = sizeof reason;
    ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &reason, &size);
    return reason;
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
    if (this != &other) {
        reset();
        number_ = other.release();
    }
    return *this;
}

int Descriptor::release() { return std::exchange(number_, -1); }

void Descriptor::reset() {
    if (number_ >= 0) ::close(release());
}

std::string Meeting::url() const {
    if (!path.empty()) return "file://" + path;
    const bool six = host.find(':') != std::string::npos;
    return engine::concat("tcp://", six ? "[" : "", host, six ? "]:" : ":", port);
}

int parse_number(const std::string& text, const std::string& source, int low, int high) {
    int value = 0;
    if (!parse_text(text, value) || value < low || value > high) {
        input_error(source, " `", data::printable(text), "`: must be a whole number from ", low, " to ",
                    high);
    }
    return value;
}

Meeting parse_meeting(const std::string& text, const std::string& source, bool any_port) {
    const std::string tcp = "tcp://", file = "file://", named = source + " `" + data::printable(text) + "`: ";
    Meeting meeting;
    if (text.starts_with(file)) {
        meeting.path = text.substr(file.size());
        if (meeting.path.empty() || meeting.path[0] != '/' || meeting.path.back() == '/') {
            input_error(named, "the path of a file must begin with /, as in file:///shared/job");
        }
        return meeting;
    }
    if (!text.starts_with(tcp)) input_error(named, kForms);
    std::string rest = text.substr(tcp.size());
    const size_t colon = rest.rfind(':');
    if (colon == std::string::npos || rest.ends_with(']'))
        input_error(named, "the port is missing: ", kForms);
    meeting.host = rest.substr(0, colon);
    const bool bracketed = meeting.host.starts_with('[') && meeting.host.ends_with(']');
    if (bracketed) meeting.host = meeting.host.substr(1, meeting.host.size() - 2);
    const bool six = meeting.host.find(':') != std::string::npos;
    if (meeting.host.empty() || six != bracketed ||
        meeting.host.find_first_of("/[]@ \t\n") != std::string::npos) {
        input_error(named, "this is no host: ", kForms);
    }
    meeting.port = parse_number(rest.substr(colon + 1), source + ": port", any_port ? 0 : 1, 65535);
    return meeting;
}

Descriptor listen_at(Meeting& meeting) {
    std::string problem;
    Descriptor listener;
    if (is_loopback(meeting.host)) {
        const Addresses found = look_up(meeting.host, meeting.port, problem);
        if (found) listener = listen_on(found->ai_addr, found->ai_addrlen, found->ai_family);
    } else {
        listener = listen_everywhere(meeting.port);
    }
    if (listener.get() < 0 && problem.empty() && errno == EADDRINUSE) {
        run_error("port ", meeting.port, " of this machine (", host_name(), ") is taken by another program, ",
                  "perhaps by another job: choose another port in --dist-url");
    }
    if (listener.get() < 0) {
        run_error(meeting.url(), ": this machine (", host_name(),
                  ") cannot listen there: ", problem.empty() ? std::strerror(errno) : problem.c_str());
    }
    meeting.port = port_of(listener.get());
    return listener;
}

Descriptor connect_to(const std::string& host, int port, double seconds, std::string& problem) {
    const Addresses found = look_up(host, port, problem);
    for (const addrinfo* next = found.get(); next != nullptr; next = next->ai_next) {
        Descriptor socket(::socket(next->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        int reason = socket.get() < 0 ? errno : 0;
        if (reason == 0 && ::connect(socket.get(), next->ai_addr, next->ai_addrlen) != 0) reason = errno;
        if (reason == EINPROGRESS) reason = connected(socket.get(), seconds);
        if (reason == 0) {
            const int on = 1;
            ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            return socket;
        }
        problem = std::strerror(reason);
    }
    return Descriptor();
}

std::string local_address(int socket) {
    sockaddr_storage address = {};
    socklen_t size = sizeof address;
    if (::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0) return "";
    if (address.ss_family != AF_INET && address.ss_family != AF_INET6) return "";
    return digits(reinterpret_cast<const sockaddr*>(&address), size);
}

bool is_loopback(const std::string& address) {
    return address == "localhost" || address == "::1" || address.starts_with("127.");
}

std::string host_name() {
    char name[256] = "";
    ::gethostname(name, sizeof name - 1);
    return data::printable(name);
}

std::vector<std::string> own_addresses() {
    std::vector<std::string> addresses;
    ifaddrs* all = nullptr;
    if (::getifaddrs(&all) == 0) {
        for (const ifaddrs* next = all; next != nullptr; next = next->ifa_next) {
            const int family = next->ifa_addr == nullptr ? AF_UNSPEC : next->ifa_addr->sa_family;
            if (family != AF_INET && family != AF_INET6) continue;
            const std::string text =
                digits(next->ifa_addr, family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
            if (!text.empty() && !is_loopback(text) && !text.starts_with("fe80:")) addresses.push_back(text);
        }
        ::freeifaddrs(all);
    }
    if (addresses.empty()) addresses.push_back("127.0.0.1");
    return addresses;
}

double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace vvtq::apps
