// `vvtq pack` and `vvtq unpack`: a folder of pictures into tar shards, and back.
#include "data/shard_pack.h"

#include <iostream>
#include <utility>

#include "apps/commands/commands.h"
#include "apps/training/interrupt.h"
#include "apps/training/log.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace {

constexpr double kSecondsPerLine = 5.0;

/// Tells how far it is, and stops at a signal.
class Progress {
  public:
    Progress(RunLog& log, const char* label) : log_(log), label_(label) {}
    bool operator()(const data::Packed& done) {
        // Asked for the first time when all pictures are listed: until then there is nothing to lose.
        if (!std::exchange(installed_, true)) install_interrupt_handler();
        if (done.pictures > 0 && since_line_.seconds() > (log_.on_terminal() ? 0.2 : kSecondsPerLine)) {
            log_.progress(batch_label(std::string(label_) + ": ", done.pictures, done.of), label_,
                          done.pictures, done.of, watch_.seconds() / static_cast<double>(done.pictures));
            since_line_.lap();
        }
        return interrupted();
    }

  private:
    RunLog& log_;
    const char* label_;
    bool installed_ = false;
    Stopwatch watch_, since_line_;
};

int stopped(const char* command, const data::Packed& done) {
    std::cerr << "vvtq " << command << ": stopped by " << interrupt_name() << " after " << done.pictures
              << " of " << done.of << " pictures; the same command begins anew" << std::endl;
    return 1;
}

}  // namespace

int command_pack(Options& options) {
    const PackFlags& flags = options.pack;
    if (flags.dir.empty() || flags.out.empty()) {
        engine::input_error("--data: name the folder of the pictures, and then the folder to write");
    }
    RunLog log;
    Progress progress(log, "Pack");
    const data::PackOptions pack{flags.resize, flags.quality,
                                 static_cast<uint64_t>(flags.shard_size) * 1000 * 1000};
    const data::Packed done = data::pack_folder(flags.dir, flags.out, pack,
                                                [&](const data::Packed& so_far) { return progress(so_far); });
    if (done.pictures < done.of) return stopped("pack", done);
    log.line(engine::concat("=> ", done.pictures, " pictures in ", done.shards,
                            done.shards == 1 ? " shard: " : " shards: ", flags.out));
    if (flags.resize > 0) {
        log.line(engine::concat("=> ", done.reencoded, " of them brought to a shorter side of ", flags.resize,
                                " and written as JPEG of quality ", flags.quality));
    }
    return 0;
}

int command_unpack(Options& options) {
    const PackFlags& flags = options.pack;
    if (flags.dir.empty() || flags.out.empty()) {
        engine::input_error("--data: name the folder of the shards, and then the folder to write");
    }
    RunLog log;
    Progress progress(log, "Unpack");
    const data::Packed done = data::unpack_folder(
        flags.dir, flags.out, [&](const data::Packed& so_far) { return progress(so_far); });
    if (done.pictures < done.of) return stopped("unpack", done);
    log.line(engine::concat("=> ", done.pictures, " pictures: ", flags.out));
    return 0;
}

}  // namespace vvtq::apps
