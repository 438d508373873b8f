#include "apps/launch/environments.h"

#include <algorithm>
#include <climits>
#include <functional>

#include "apps/launch/sockets.h"
#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace {

using engine::input_error;

constexpr size_t kMostHosts = kMostProcesses;

bool has(const Environment& environment, const std::string& name) {
    const auto found = environment.find(name);
    return found != environment.end() && !found->second.empty();
}

int number(const Environment& environment, const std::string& name, int low, int high) {
    if (!has(environment, name))
        input_error(name, " is not set, but the other variables of its launcher are");
    return parse_number(environment.at(name), name, low, high);
}

int number_or(const Environment& environment, const std::string& name, int low, int high, int otherwise) {
    return has(environment, name) ? number(environment, name, low, high) : otherwise;
}

/// A place from the names of four variables; the two local ones may be missing.
Place place_of(const Environment& environment, const std::string& rank, const std::string& size,
               const std::string& local_rank, const std::string& local_size) {
    Place place;
    place.size = number(environment, size, 1, kMostProcesses);
    place.rank = number(environment, rank, 0, place.size - 1);
    place.local_size = number_or(environment, local_size, 1, place.size, 1);
    place.local_rank = number_or(environment, local_rank, 0, place.size - 1, 0);
    if (!has(environment, local_size)) {
        place.local_size = place.local_rank + 1;
    } else if (place.local_rank >= place.local_size) {
        input_error(local_rank, ' ', place.local_rank, ": with ", local_size, ' ', place.local_size,
                    " it must be smaller");
    }
    place.machines = (place.size + place.local_size - 1) / place.local_size;
    return place;
}

/// Below the ports that systems hand out by themselves.
size_t port_of_job(size_t number) { return 12000 + number % 20000; }

/// "3-5" or "9" of a list in brackets, with the zeros in front.
void add_range(const std::string& range, const std::string& before, const std::string& source,
               std::vector<std::string>& hosts) {
    const size_t dash = range.find('-');
    const std::string first = range.substr(0, dash),
                      last = dash == range.npos ? first : range.substr(dash + 1);
    const int begin = parse_number(first, source, 0, INT_MAX - 1);
    const int end = parse_number(last, source, begin, INT_MAX - 1);
    for (int i = begin; i <= end && hosts.size() <= kMostHosts; ++i) {
        std::string digits = std::to_string(i);
        if (digits.size() < first.size()) digits.insert(0, first.size() - digits.size(), '0');
        hosts.push_back(before + digits);
    }
}

std::vector<std::string> split(const std::string& list) {
    std::vector<std::string> parts(1);
    for (const char c : list) {
        if (c == ',') {
            parts.emplace_back();
        } else {
            parts.back() += c;
        }
    }
    return parts;
}

}  // namespace

std::vector<std::string> slurm_hosts(const std::string& list, const std::string& source) {
    const auto refuse = [&] {
        input_error(source, " `", data::printable(list), "`: no list of hosts; give --dist-url");
    };
    std::vector<std::string> hosts;
    for (size_t at = 0; at <= list.size();) {
        // One item: text with at most some [..] parts, up to the next comma outside of brackets.
        std::vector<std::string> made = {""};
        while (at < list.size() && list[at] != ',') {
            if (list[at] != '[') {
                if (list[at] == ']') refuse();
                for (std::string& host : made) host += list[at];
                ++at;
                continue;
            }
            const size_t close = list.find(']', at);
            if (close == list.npos) refuse();
            std::vector<std::string> longer;
            for (const std::string& before : made) {
                for (const std::string& range : split(list.substr(at + 1, close - at - 1))) {
                    add_range(range, before, source, longer);
                }
            }
            made = longer;
            at = close + 1;
        }
        ++at;
        for (const std::string& host : made) {
            if (host.empty()) refuse();
            hosts.push_back(host);
        }
        if (hosts.size() > kMostHosts) refuse();
    }
    return hosts;
}

std::string master_url(const Environment& environment) {
    const auto agent = environment.find("TORCHELASTIC_USE_AGENT_STORE");
    const int above = agent != environment.end() && agent->second == "True" ? 1 : 0;
    for (const char* name : {"MASTER_ADDR", "MASTER_PORT"}) {
        if (!has(environment, name))
            input_error(name, " is not set: set it, or give --dist-url tcp://HOST:PORT");
    }
    const std::string host = environment.at("MASTER_ADDR");
    const int port = number(environment, "MASTER_PORT", 1, 65535 - above) + above;
    const bool bare_six = host.find(':') != host.npos && host[0] != '[';
    const std::string url = engine::concat("tcp://", bare_six ? "[" : "", host, bare_six ? "]:" : ":", port);
    return parse_meeting(url, "MASTER_ADDR").url();
}

std::optional<Place> of_torchrun(const Environment& environment, bool need_url) {
    if (!has(environment, "RANK") || !has(environment, "WORLD_SIZE")) return std::nullopt;
    Place place = place_of(environment, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE");
    if (need_url) place.url = master_url(environment);
    return place;
}

std::optional<Place> of_slurm(const Environment& environment, bool need_url) {
    if (!has(environment, "SLURM_PROCID") || number_or(environment, "SLURM_NTASKS", 1, INT_MAX, 1) == 1) {
        return std::nullopt;
    }
    Place place =
        place_of(environment, "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE");
    const std::string list =
        has(environment, "SLURM_STEP_NODELIST") ? "SLURM_STEP_NODELIST" : "SLURM_JOB_NODELIST";
    if (!has(environment, list)) {
        if (need_url) input_error(list, " is not set: give --dist-url tcp://HOST:PORT");
        return place;
    }
    const auto hosts = slurm_hosts(environment.at(list), list);
    place.machines = std::min(place.size, static_cast<int>(hosts.size()));
    if (!has(environment, "SLURM_NTASKS_PER_NODE")) {
        place.local_size = std::max(place.local_size, (place.size + place.machines - 1) / place.machines);
    }
    if (need_url) {
        const auto job = static_cast<size_t>(number(environment, "SLURM_JOB_ID", 0, INT_MAX));
        const auto step = static_cast<size_t>(number_or(environment, "SLURM_STEP_ID", 0, INT_MAX, 0));
        place.url = engine::concat("tcp://", hosts.front(), ':', port_of_job(job + step));
    }
    return place;
}

std::optional<Place> of_open_mpi(const Environment& environment, bool need_url) {
    if (!has(environment, "OMPI_COMM_WORLD_RANK") || !has(environment, "OMPI_COMM_WORLD_SIZE"))
        return std::nullopt;
    Place place = place_of(environment, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                           "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE");
    if (need_url && (has(environment, "MASTER_ADDR") || has(environment, "MASTER_PORT"))) {
        place.url = master_url(environment);
    } else if (need_url && place.local_size == place.size) {
        // Another job on this machine has another name.
        const auto name = environment.find("PMIX_NAMESPACE");
        place.url = engine::concat(
            "tcp://127.0.0.1:",
            port_of_job(std::hash<std::string>()(name == environment.end() ? "" : name->second)));
    }
    return place;
}

}  // namespace vvtq::apps
