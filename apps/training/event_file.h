// event_file: files that TensorBoard shows: records of TFRecord, each an Event of TensorFlow's protobufs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vvtq::apps {

/// CRC-32C (polynomial 0x1EDC6F41, reflected), as iSCSI and TFRecord have it.
uint32_t crc32c(std::string_view bytes);

/// Figures of one step.
class Summary {
  public:
    void scalar(const std::string& tag, double value);
    /// A share, or count, of each of the numbers low, low + 1, ...
    void histogram(const std::string& tag, int low, const std::vector<double>& counts);
    bool empty() const { return bytes_.empty(); }
    /// As a Summary of TensorFlow's summary.proto.
    const std::string& bytes() const { return bytes_; }

  private:
    void add(const std::string& tag, int field, const std::string& value);
    std::string bytes_;
};

/// The record that says which version of Event follows; a file begins with it.
std::string version_record(double seconds);
/// The record of a summary.
std::string summary_record(double seconds, int64_t step, const Summary& summary);
/// The record that lets TensorBoard forget what earlier files of the folder say of `step` and later ones.
std::string restart_record(double seconds, int64_t step);

/// "events.out.tfevents.1700000000.HOST.PID": what TensorBoard takes for such a file.
std::string event_file_name(double seconds);

}  // namespace vvtq::apps
