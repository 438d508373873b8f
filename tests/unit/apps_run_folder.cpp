// The files of a run: one run has the folder, whatever becomes of its lock file.
#include "apps/training/run_folder.h"

#include <filesystem>

#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;

namespace fs = std::filesystem;

TEST_CASE("a run whose lock file was removed takes the folder again, or is refused where another has it") {
    const Scratch scratch;
    const std::string dir = scratch / "run", taken = "the run folder " + dir + " is being written";
    apps::RunFolder first(dir, 1), second(dir, 1);
    first.take();
    CHECK(refuses(taken, [&] { second.take(); }));
    fs::remove(dir + "/.lock");
    first.take();  // as each save does
    CHECK(refuses(taken, [&] { second.take(); }));
    fs::remove(dir + "/.lock");
    second.take();
    CHECK(refuses(taken, [&] { first.take(); }));
    fs::rename(dir, dir + ".old");
    fs::create_directory(dir);
    apps::RunFolder third(dir, 1);
    third.take();
    CHECK(refuses(taken, [&] { second.take(); }));
}

TEST_CASE("a run notices that its folder had gone, also where somebody has made it again") {
    const Scratch scratch;
    const std::string dir = scratch / "run", checkpoint = dir + "/checkpoint.safetensors";
    apps::RunFolder run(dir, 1);
    CHECK_FALSE(run.take());
    write_bytes(checkpoint, {1});
    CHECK_FALSE(run.take());
    fs::remove(dir + "/.lock");
    CHECK_FALSE(run.take());  // the lock alone
    fs::rename(dir, scratch / "away");
    CHECK(run.take());
    write_bytes(checkpoint, {1});
    CHECK_FALSE(run.take());
    fs::rename(dir, scratch / "away too");
    fs::create_directory(dir);  // as a log that is opened again does
    CHECK(run.take());
}
