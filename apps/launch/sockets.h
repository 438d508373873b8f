// sockets: addresses in text, listening and connecting; nothing here waits without a limit.
#pragma once

#include <string>
#include <vector>

namespace vvtq::apps {

/// Owns a file descriptor.
class Descriptor {
  public:
    explicit Descriptor(int number = -1) : number_(number) {}
    Descriptor(Descriptor&& other) noexcept : number_(other.release()) {}
    Descriptor& operator=(Descriptor&& other) noexcept;
    ~Descriptor() { reset(); }

    int get() const { return number_; }
    int release();
    void reset();

  private:
    int number_;
};

/// Where the processes of a job meet: a host and a port, or a file that will hold them.
struct Meeting {
    std::string host;  // a name, or the digits of an IPv4 or IPv6 address
    int port = 0;
    std::string path;  // of file://PATH; empty for tcp://HOST:PORT

    std::string url() const;
};

/// Takes tcp://HOST:PORT, tcp://[IPV6]:PORT and file:///PATH apart. Throws Error(Fault::input) where `text`
/// is neither; the message names `source`, the flag or the variable. Port 0 only where `any_port`.
Meeting parse_meeting(const std::string& text, const std::string& source, bool any_port = false);

/// A whole number from `low` to `high`, in digits only. Throws Error(Fault::input), naming `source`.
int parse_number(const std::string& text, const std::string& source, int low, int high);

/// A socket that listens at the port, on the loopback device where the host is its name or address, else on
/// all. The port is free again as soon as the socket is closed. Port 0 takes a free one and writes it into
/// `meeting`. Throws Error(Fault::run) where the port is taken.
Descriptor listen_at(Meeting& meeting);

/// Tries once, for at most `seconds`. None, with the reason in `problem`, where nobody answers.
Descriptor connect_to(const std::string& host, int port, double seconds, std::string& problem);

/// The address in digits of this end of a connection; "" for a pair of sockets.
std::string local_address(int socket);
bool is_loopback(const std::string& address);

std::string host_name();
/// Addresses of this machine in digits, those of the loopback device only where there is no other.
std::vector<std::string> own_addresses();

/// Seconds on a clock that is never set.
double seconds_now();

}  // namespace vvtq::apps
