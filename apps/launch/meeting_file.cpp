#include "apps/launch/meeting_file.h"

#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::apps {

void write_meeting_file(const std::string& path, const MeetingFile& meeting) {
    if (std::error_code none;
        std::filesystem::file_size(path, none) > 0 && !none && !read_meeting_file(path)) {
        engine::input_error(path, ": holds something else than the address of a job: give another path in ",
                            "--dist-url, or remove the file");
    }
    const nlohmann::json content = {
        {"vvtq job", meeting.token}, {"port", meeting.port}, {"hosts", meeting.hosts}};
    const std::string text = content.dump() + "\n";
    data::AtomicFile file(path);
    file.write(text.data(), text.size());
    file.commit();
}

std::optional<MeetingFile> read_meeting_file(const std::string& path) {
    if (::access(path.c_str(), F_OK) != 0) return std::nullopt;
    try {
        const data::Bytes bytes = data::read_file(path, "");
        const auto content = nlohmann::json::parse(bytes);
        return MeetingFile{content.at("vvtq job"), content.at("port"), content.at("hosts")};
    } catch (const nlohmann::json::exception&) {
        return std::nullopt;  // another program's
    } catch (const engine::Error&) {
        return std::nullopt;  // removed just now
    }
}

void remove_meeting_file(const std::string& path, const std::string& token) {
    const auto there = read_meeting_file(path);
    if (there && there->token == token) ::unlink(path.c_str());
}

std::string new_token() {
    std::random_device random;
    return engine::concat(std::hex, random(), '-', random(), '-', random());
}

}  // namespace vvtq::apps
