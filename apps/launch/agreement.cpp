#include "apps/launch/agreement.h"

#include <nlohmann/json.hpp>

#include "apps/launch/sockets.h"
#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::apps {

void require_agreement(const Processes& processes, const std::map<std::string, std::string>& own) {
    constexpr const char* kHost = "host";
    nlohmann::json text(own);
    text[kHost] = host_name();
    // flags may hold any bytes
    const auto all = processes.exchange(text.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    std::vector<nlohmann::json> values;
    for (const std::string& other : all) values.push_back(nlohmann::json::parse(other));
    for (size_t rank = 1; rank < values.size(); ++rank) {
        for (const auto& [name, value] : values[0].items()) {
            const std::string here = values[rank].value(name, "nothing"), there = value;
            if (name == kHost || here == there) continue;
            engine::input_error("rank ", rank, " (host ", values[rank].value(kHost, ""), ") has ", name, " ",
                                data::printable(here), ", rank 0 (host ", values[0].value(kHost, ""),
                                ") has ", data::printable(there),
                                ": start all processes with the same flags, data and checkpoint");
        }
    }
}

}  // namespace vvtq::apps
