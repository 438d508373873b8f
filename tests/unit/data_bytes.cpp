// Files that are mapped, and files that are written as a whole or not at all.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "data/bytes.h"
#include "tests/command_support.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;
using data::AtomicFile;

namespace fs = std::filesystem;

TEST_CASE("a mapped file that becomes shorter ends the process with its name") {
    const Scratch scratch;
    const std::string path = scratch / "labels.bin";
    write_bytes(path, data::Bytes(100000, 7));
    write_bytes(scratch / "err", {});
    const pid_t child = fork();
    if (child == 0) {
        dup2(open((scratch / "err").c_str(), O_WRONLY), STDERR_FILENO);
        data::tell_of_lost_mappings("vvtq train");
        const data::MappedFile other(fixture_path("picture.png"), "");
        const data::MappedFile file(path, "");
        if (::truncate(path.c_str(), 10) != 0) _exit(3);
        volatile uint8_t last = file.bytes().back();
        _exit(last == 7 ? 4 : 5);
    }
    REQUIRE(child > 0);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 1);
    CHECK(text_of(scratch / "err") ==
          "vvtq train: error: " + path +
              " became shorter while it was read, or its disk fails: write it anew\n");
}

TEST_CASE("a FIFO or a device is no file, and nobody waits for it") {
    const Scratch scratch;
    const std::string fifo = scratch / "fifo";
    REQUIRE(mkfifo(fifo.c_str(), 0666) == 0);
    for (const std::string& path : {fifo, std::string("/dev/null"), std::string("/dev/full")}) {
        CHECK(refuses(path, [&] { data::read_file(path, "name a file"); }));
        CHECK(refuses(path, [&] { data::MappedFile(path, "name a file"); }));
        CHECK(refuses(path, [&] { AtomicFile file(path); }));
    }
    CHECK(fs::is_character_file("/dev/full"));
    CHECK(fs::is_fifo(fifo));
}

TEST_CASE("an atomic file follows links and leaves them") {
    const Scratch scratch;
    fs::create_directories(scratch / "a");
    fs::create_directories(scratch / "b");
    fs::create_symlink("../b/second", scratch / "a/first");
    fs::create_symlink("file", scratch / "b/second");  // which is not there yet
    for (const uint8_t value : {1, 2}) {
        AtomicFile file(scratch / "a/first");
        file.write(&value, 1);
        file.commit();
        CHECK(bytes_of(scratch / "b/file") == data::Bytes{value});
    }
    CHECK(fs::is_symlink(scratch / "a/first"));
    CHECK(fs::is_symlink(scratch / "b/second"));
    fs::create_symlink("loop", scratch / "loop");
    CHECK(refuses("loop", [&] { AtomicFile file(scratch / "loop"); }));
}

TEST_CASE("a full disk shows when room is reserved") {
    const Scratch scratch;
    const MemoryDisk disk(scratch / "disk", "64k");
    if (!disk.mounted()) return;
    AtomicFile file(scratch / "disk/file");
    file.reserve(10000);
    CHECK_THROWS_AS(file.reserve(100000), engine::Error);
}
