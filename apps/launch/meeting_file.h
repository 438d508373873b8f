// meeting_file: rank 0 of a job that was started with file://PATH writes there where it listens.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace vvtq::apps {

struct MeetingFile {
    std::string token;  // of this job: a file of an earlier one may still be there
    int port = 0;
    std::vector<std::string> hosts;  // addresses of rank 0's machine
};

/// Throws Error(Fault::input) where the file cannot be written.
void write_meeting_file(const std::string& path, const MeetingFile& meeting);
/// None while there is no such file.
std::optional<MeetingFile> read_meeting_file(const std::string& path);
/// Where it still is this job's.
void remove_meeting_file(const std::string& path, const std::string& token);
std::string new_token();

}  // namespace vvtq::apps
