// `vvtq bench train`: one line for each number of workers, whose parts add up.
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/catch.h"
#include "tests/command_support.h"
#include "tests/jpeg_writer.h"
#include "tests/unit/data_support.h"

using namespace vvtq;
using namespace vvtq::tests;

TEST_CASE("bench train prints a line of JSON for each number of workers") {
    const Scratch scratch;
    write_cifar_like(scratch / "cifar", 2, 1);
    const std::string flags =
        " --model deit_nano_patch4_28_quant --img-size 32 --patch-size 8 --embed-dim 32 --depth 2 "
        "--num-heads 2"
        " --threads 1 --device cpu --wbits 4 --abits 4 -b 16 --seconds 0.2";
    const Ended ended =
        run_vvtq("bench train " + scratch / "cifar" + flags + " --workers 0 2 --crops 2", scratch.path());
    INFO(ended.err);
    REQUIRE(ended.status == 0);
    std::istringstream lines(ended.out);
    std::vector<int> workers;
    for (std::string text; std::getline(lines, text);) {
        INFO(text);
        const auto line = nlohmann::json::parse(text);
        const auto number = [&](const char* name) { return line.at(name).get<double>(); };
        workers.push_back(line.at("workers"));
        CHECK(line.at("pictures") == 20);
        CHECK(line.at("crops") == 2);
        CHECK(number("steps") >= 1);
        CHECK(number("img_s") == Approx(16 * number("steps") / number("seconds")).epsilon(0.01));
        CHECK(number("of_step") == Approx(number("img_s") / number("step_img_s")).epsilon(0.01));
        const double shares = number("waiting_share") + number("copy_share") + number("step_share");
        CHECK(shares > 0.5);  // the rest is reading the clock
        CHECK(shares < 1.01);
        CHECK(number("jpeg_share") + number("resample_share") < 1.01);
    }
    CHECK(workers == std::vector<int>{0, 2});
    const auto refused = [&](const std::string& arguments, const std::string& part) {
        const Ended other = run_vvtq("bench train " + arguments + flags, scratch.path());
        INFO(other.err);
        CHECK(other.status == 2);
        CHECK(other.err.find(part) != std::string::npos);
    };
    refused(scratch / "absent", scratch / "absent");
    refused(scratch / "cifar --workers 300", "--workers");
    refused(scratch / "cifar --num_classes 3", "--num_classes");
    refused(scratch / "cifar --decode gpu", "--decode");
}
