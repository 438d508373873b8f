#include "apps/launch/report.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <iostream>
#include <new>
#include <nlohmann/json.hpp>

#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace {

std::atomic<int> starter = -1;  // a pipe

}  // namespace

void report_to(int pipe) { starter = pipe; }

void report(const std::string& command, const Report& report) {
    if (starter < 0) {
        const std::string line = command + ": error: " + report.text + "\n";
        if (!report.ended) data::write_all(STDERR_FILENO, line.data(), line.size());
        return;
    }
    // At most PIPE_BUF bytes, so that the lines of several processes do not mix.
    std::string text = report.text, line;
    do {
        const nlohmann::json fields = {report.rank, report.status, report.named, report.ended, text};
        line = fields.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
        text.resize(text.size() / 2);
    } while (line.size() > PIPE_BUF);
    data::write_all(starter, line.data(), line.size());
}

Report report_of(const Place& place, const std::function<int(const Place&)>& work) {
    Report report{place.rank, 1, false, false, ""};
    try {
        report.status = work(place);
        report.ended = true;
        std::cout.flush();
        if (!std::cout && report.status == 0) {
            report = {place.rank, 1, false, false,
                      "standard output could not be written: free some space or send it elsewhere"};
        }
    } catch (const engine::OutOfMemory& error) {
        report.text = engine::concat(error.what(), "; use a smaller --batch-size");
        report.status = 2;
    } catch (const engine::Error& error) {
        report.text = error.what();
        report.status = error.fault() == engine::Fault::input ? 2 : 1;
    } catch (const std::bad_alloc&) {
        report.text = "out of memory; try a smaller --batch-size";
    } catch (const std::exception& error) {
        report.text = error.what();
    }
    return report;
}

bool take_report(std::string& bytes, Report& report) {
    const size_t end = bytes.find('\n');
    if (end == std::string::npos) return false;
    const auto fields = nlohmann::json::parse(bytes.substr(0, end));
    bytes.erase(0, end + 1);
    report = {fields.at(0), fields.at(1), fields.at(2), fields.at(3), fields.at(4)};
    return true;
}

}  // namespace vvtq::apps
