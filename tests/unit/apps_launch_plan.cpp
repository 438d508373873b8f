// Which processes a command line or a launcher asks for, as tables.
#include <cmath>
#include <functional>
#include <string>

#include "apps/launch/environments.h"
#include "apps/launch/launch.h"
#include "apps/launch/sockets.h"
#include "engine/check.h"
#include "tests/catch.h"

using namespace vvtq::apps;
using vvtq::engine::concat;

namespace {

struct Case {
    std::string name;
    std::function<void(LaunchFlags&)> flags;
    Environment environment;
    std::string wanted;  // of `text_of`, or a part of the error
    int gpus = 0;
};

std::string text_of(const LaunchPlan& plan) {
    const Place& at = plan.place;
    if (!at.several) return concat("none", at.size == 1 && plan.start == 0 ? "" : "?");
    return concat("start ", plan.start, ", ", at.rank, "/", at.size, ", local ", at.local_rank, "/",
                  at.local_size, ", machines ", at.machines, ", ", at.url);
}

std::string planned(const Case& row) {
    LaunchFlags flags;
    if (row.flags) row.flags(flags);
    try {
        return text_of(plan_launch(flags, row.environment, row.gpus));
    } catch (const vvtq::engine::Error& error) {
        CHECK(error.fault() == vvtq::engine::Fault::input);
        CHECK(std::string(error.what()).find('\n') == std::string::npos);
        return error.what();
    }
}

void check_all(const std::vector<Case>& table) {
    for (const Case& row : table) {
        INFO(row.name);
        const std::string text = planned(row);
        INFO(text);
        CHECK(text.find(row.wanted) != std::string::npos);
    }
}

/// The published line, with its --world-size and --rank.
std::function<void(LaunchFlags&)> published(int world_size, int rank, const std::string& url) {
    return [=](LaunchFlags& flags) {
        flags.multiprocessing = true;
        flags.world_size = world_size;
        flags.rank = rank;
        flags.url = url;
        flags.backend = "nccl";
    };
}

std::function<void(LaunchFlags&)> hand(int world_size, int rank, const std::string& url = "") {
    return [=](LaunchFlags& flags) {
        flags.world_size = world_size;
        flags.rank = rank;
        flags.url = url;
    };
}

std::function<void(LaunchFlags&)> nproc(int count, int world_size = -1, int rank = -1,
                                        const std::string& url = "") {
    return [=](LaunchFlags& flags) {
        hand(world_size, rank, url)(flags);
        flags.nproc = count;
    };
}

std::function<void(LaunchFlags&)> url(const std::string& text) { return hand(-1, -1, text); }

const std::string kPublished = "tcp://127.0.0.1:10001";
const Environment kTorchrun = {{"RANK", "5"},        {"WORLD_SIZE", "8"},
                               {"LOCAL_RANK", "1"},  {"LOCAL_WORLD_SIZE", "4"},
                               {"MASTER_ADDR", "a"}, {"MASTER_PORT", "29500"}};
const Environment kSlurm = {{"SLURM_PROCID", "5"},
                            {"SLURM_NTASKS", "6"},
                            {"SLURM_LOCALID", "1"},
                            {"SLURM_JOB_ID", "123"},
                            {"SLURM_JOB_NODELIST", "gpu[03-04,9],x"}};
const Environment kOpenMpi = {{"OMPI_COMM_WORLD_RANK", "2"},
                              {"OMPI_COMM_WORLD_SIZE", "4"},
                              {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                              {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};

Environment with(Environment environment, const Environment& more) {
    for (const auto& [name, value] : more) environment[name] = value;
    return environment;
}

Environment without(Environment environment, const std::string& name) {
    environment.erase(name);
    return environment;
}

}  // namespace

TEST_CASE("launch: flags", "[launch]") {
    check_all({
        {"nothing", {}, {}, "none"},
        {"a default of the published code", hand(-1, -1, kPublished), {}, "none"},
        {"published",
         published(1, 0, kPublished),
         {},
         "start 2, 0/2, local 0/2, machines 1, " + kPublished,
         2},
        {"defaults",
         published(-1, -1, kPublished),
         {},
         "start 8, 0/8, local 0/8, machines 1, " + kPublished,
         8},
        {"second of three machines",
         published(3, 1, "tcp://head:10001"),
         {},
         "start 4, 4/12, local 0/4, machines 3, tcp://head:10001",
         4},
        {"one GPU", published(1, 0, kPublished), {}, "start 1, 0/1, local 0/1, machines 1, " + kPublished, 1},
        {"nproc", nproc(3), {}, "start 3, 0/3, local 0/3, machines 1, tcp://127.0.0.1:0"},
        {"nproc 1", nproc(1), {}, "start 1, 0/1, local 0/1, machines 1"},
        {"nproc of two machines",
         nproc(3, 2, 1, "tcp://[fd00::1]:80"),
         {},
         "start 3, 3/6, local 0/3, machines 2, tcp://[fd00::1]:80"},
        {"nproc before gpus",
         [](LaunchFlags& f) { published(1, 0, kPublished)(f), f.nproc = 2, f.backend = "gloo"; },
         {},
         "start 2, 0/2, local 0/2",
         8},
        {"by hand", hand(4, 2, "tcp://head:80"), {}, "start 0, 2/4, local 0/1, machines 4, tcp://head:80"},
        {"by hand, file",
         hand(2, 1, "file:///shared/job"),
         {},
         "start 0, 1/2, local 0/1, machines 2, file:///shared/job"},
        {"by hand, alone", hand(1, 0), {}, "start 0, 0/1, local 0/1, machines 1"},
        {"alone, no rank", hand(1, -1), {}, "start 0, 0/1, local 0/1, machines 1"},
        {"env", hand(-1, -1, "env://"), without(without(kTorchrun, "LOCAL_RANK"), "LOCAL_WORLD_SIZE"),
         "start 0, 5/8, local 0/1, machines 8, tcp://a:29500"},
        {"env, rank by flag", hand(-1, 3, "env://"), kTorchrun,
         "start 0, 3/8, local 0/1, machines 8, tcp://a:29500"},
        {"env with nproc", nproc(2, -1, -1, "env://"), kTorchrun,
         "start 2, 10/16, local 0/2, machines 8, tcp://a:29500"},
        {"flags before torchrun", nproc(2), kTorchrun, "start 2, 0/2"},
        {"flags before torchrun, by hand", hand(2, 1, kPublished), kTorchrun, "start 0, 1/2"},
    });
}

TEST_CASE("launch: flags that contradict one another", "[launch]") {
    check_all({
        {"no GPU",
         published(1, 0, kPublished),
         {},
         "--multiprocessing-distributed starts one process for each GPU"},
        {"gloo",
         [](LaunchFlags& f) { f.multiprocessing = true, f.backend = "gloo"; },
         {},
         "--nproc how many",
         8},
        {"no rank", published(2, -1, kPublished), {}, "--world-size 2 without --rank", 2},
        {"rank too large",
         published(2, 2, kPublished),
         {},
         "--rank 2: with --world-size 2 it must be from 0 to 1",
         2},
        {"rank without size", published(-1, 1, kPublished), {}, "--rank 1", 2},
        {"no url", nproc(2, 2, 0), {}, "--world-size 2 without --dist-url"},
        {"no machines", nproc(2, 0, 0), {}, "--world-size 0"},
        {"by hand, no rank", hand(2, -1, kPublished), {}, "--world-size 2 without --rank"},
        {"by hand, no size", hand(-1, 0, kPublished), {}, "--rank 0 without --world-size"},
        {"by hand, no url", hand(2, 0), {}, "--world-size 2 without --dist-url"},
        {"by hand, none", hand(0, 0), {}, "--world-size 0"},
        {"too many", hand(1 << 20, 0, kPublished), {}, "--world-size 1048576"},
        {"env, nothing", url("env://"), {}, "RANK and WORLD_SIZE are not set"},
        {"env, no port", hand(2, 0, "env://"), {{"MASTER_ADDR", "a"}}, "MASTER_PORT is not set"},
        {"env, no address", hand(2, 0, "env://"), {{"MASTER_PORT", "80"}}, "MASTER_ADDR is not set"},
        {"negative nproc", nproc(-2), {}, "--nproc -2"},
        {"timeout", [](LaunchFlags& f) { f.timeout = 0; }, {}, "--dist-timeout 0"},
        {"timeout nan", [](LaunchFlags& f) { f.timeout = std::nan(""); }, {}, "--dist-timeout nan"},
    });
    for (const std::string text : {"10001",
                                   "http://a:1",
                                   "tcp://a",
                                   "tcp://a:",
                                   "tcp://:80",
                                   "tcp://a:0",
                                   "tcp://a:65536",
                                   "tcp://a:8x",
                                   "tcp://a:-1",
                                   "tcp://a: 8",
                                   "tcp://fd00::1:80",
                                   "tcp://[fd00::1]",
                                   "tcp://[fd00::1:80",
                                   "tcp://a/b:80",
                                   "tcp://a b:80",
                                   "tcp://[a]:80",
                                   "file://",
                                   "file://job",
                                   "file:///",
                                   "file:///dir/",
                                   "tcp://a:99999999999999999999",
                                   "env://x"}) {
        check_all({{text, url(text), {}, "--dist-url"}, {text, hand(2, 0, text), {}, "--dist-url"}});
    }
}

TEST_CASE("launch: torchrun", "[launch]") {
    const Environment agent = with(kTorchrun, {{"TORCHELASTIC_USE_AGENT_STORE", "True"}});
    check_all({
        {"torchrun", {}, kTorchrun, "start 0, 5/8, local 1/4, machines 2, tcp://a:29500"},
        {"the agent listens", {}, agent, "start 0, 5/8, local 1/4, machines 2, tcp://a:29501"},
        {"the agent does not", {}, with(agent, {{"TORCHELASTIC_USE_AGENT_STORE", "False"}}), "tcp://a:29500"},
        {"env", url("env://"), agent, "tcp://a:29501"},
        {"own address", url(kPublished), agent, "start 0, 5/8, local 1/4, machines 2, " + kPublished},
        {"IPv6", {}, with(kTorchrun, {{"MASTER_ADDR", "fd00::1"}}), "tcp://[fd00::1]:29500"},
        {"one process",
         {},
         with(kTorchrun,
              {{"RANK", "0"}, {"WORLD_SIZE", "1"}, {"LOCAL_RANK", "0"}, {"LOCAL_WORLD_SIZE", "1"}}),
         "start 0, 0/1, local 0/1, machines 1"},
        {"before SLURM and Open MPI", {}, with(with(kTorchrun, kSlurm), kOpenMpi), "5/8"},
        {"a lone RANK is somebody else's", {}, {{"RANK", "x"}}, "none"},
        {"no address", {}, without(kTorchrun, "MASTER_ADDR"), "MASTER_ADDR is not set"},
        {"no port", {}, without(kTorchrun, "MASTER_PORT"), "MASTER_PORT is not set"},
        {"port", {}, with(kTorchrun, {{"MASTER_PORT", "65536"}}), "MASTER_PORT `65536`"},
        {"next port", {}, with(agent, {{"MASTER_PORT", "65535"}}), "MASTER_PORT `65535`"},
        {"host", {}, with(kTorchrun, {{"MASTER_ADDR", "a b"}}), "MASTER_ADDR"},
        {"rank", {}, with(kTorchrun, {{"RANK", "8"}}), "RANK `8`: must be a whole number from 0 to 7"},
        {"rank no number", {}, with(kTorchrun, {{"RANK", "1.0"}}), "RANK `1.0`"},
        {"size", {}, with(kTorchrun, {{"WORLD_SIZE", "0"}}), "WORLD_SIZE `0`"},
        {"local size", {}, with(kTorchrun, {{"LOCAL_WORLD_SIZE", "9"}}), "LOCAL_WORLD_SIZE `9`"},
        {"local rank", {}, with(kTorchrun, {{"LOCAL_RANK", "4"}}), "LOCAL_RANK 4: with LOCAL_WORLD_SIZE 4"},
    });
}

TEST_CASE("launch: SLURM", "[launch]") {
    check_all({
        {"SLURM", {}, kSlurm, "start 0, 5/6, local 1/2, machines 4, tcp://gpu03:12123"},
        {"tasks of a node", {}, with(kSlurm, {{"SLURM_NTASKS_PER_NODE", "3"}}), "local 1/3, machines 4"},
        {"own address", url("tcp://b:80"), without(kSlurm, "SLURM_JOB_ID"),
         "5/6, local 1/2, machines 4, tcp://b:80"},
        {"env", url("env://"), with(kSlurm, {{"MASTER_ADDR", "m"}, {"MASTER_PORT", "90"}}), "tcp://m:90"},
        {"a step of its own",
         {},
         with(kSlurm, {{"SLURM_STEP_ID", "1"}, {"SLURM_STEP_NODELIST", "x"}}),
         "machines 1, tcp://x:12124"},
        {"one task", {}, with(kSlurm, {{"SLURM_NTASKS", "1"}, {"SLURM_PROCID", "0"}}), "none"},
        {"one task, flags", nproc(2), with(kSlurm, {{"SLURM_NTASKS", "1"}}), "start 2"},
        {"not a task", {}, {{"SLURM_NTASKS", "4"}}, "none"},
        {"before Open MPI", {}, with(kSlurm, kOpenMpi), "5/6"},
        {"large job id", {}, with(kSlurm, {{"SLURM_JOB_ID", "2147483647"}}), "tcp://gpu03:15647"},
        {"no job id", {}, without(kSlurm, "SLURM_JOB_ID"), "SLURM_JOB_ID is not set"},
        {"no list", {}, without(kSlurm, "SLURM_JOB_NODELIST"), "SLURM_JOB_NODELIST is not set"},
        {"rank", {}, with(kSlurm, {{"SLURM_PROCID", "6"}}), "SLURM_PROCID `6`"},
        {"tasks", {}, with(kSlurm, {{"SLURM_NTASKS", "many"}}), "SLURM_NTASKS `many`"},
    });
    const auto hosts = [](const std::string& list) {
        std::string all;
        for (const std::string& host : slurm_hosts(list, "LIST")) all += host + " ";
        return all;
    };
    CHECK(hosts("a") == "a ");
    CHECK(hosts("a,b-2") == "a b-2 ");
    CHECK(hosts("gpu[03-05,9],x") == "gpu03 gpu04 gpu05 gpu9 x ");
    CHECK(hosts("gpu[08-11]") == "gpu08 gpu09 gpu10 gpu11 ");
    CHECK(hosts("r[1-2]n[0-1].net") == "r1n0.net r1n1.net r2n0.net r2n1.net ");
    for (const std::string list : {"", "a,", ",a", "a[", "a[]", "a[1", "a[1-", "a[x]", "a[2-1]", "a]",
                                   "a[1-2-3]", "a[0-99999999]", "a[0-999][0-999][0-999]"}) {
        INFO(list);
        CHECK_THROWS_AS(hosts(list), vvtq::engine::Error);
    }
}

TEST_CASE("launch: Open MPI", "[launch]") {
    const Environment here = with(kOpenMpi, {{"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}});
    const Environment master = {{"MASTER_ADDR", "m"}, {"MASTER_PORT", "90"}};
    check_all({
        {"address", url("tcp://b:80"), kOpenMpi, "start 0, 2/4, local 0/2, machines 2, tcp://b:80"},
        {"file", url("file:///shared/job"), kOpenMpi, "machines 2, file:///shared/job"},
        {"variables", {}, with(kOpenMpi, master), "tcp://m:90"},
        {"env", url("env://"), with(here, master), "tcp://m:90"},
        {"one machine", {}, here, "machines 1, tcp://127.0.0.1:"},
        {"no address", {}, kOpenMpi, "give --dist-url"},
        {"half an address", {}, with(kOpenMpi, {{"MASTER_ADDR", "m"}}), "MASTER_PORT is not set"},
        {"rank", {}, with(here, {{"OMPI_COMM_WORLD_RANK", "4"}}), "OMPI_COMM_WORLD_RANK `4`"},
        {"size", {}, with(here, {{"OMPI_COMM_WORLD_SIZE", "-4"}}), "OMPI_COMM_WORLD_SIZE `-4`"},
    });
    // Two jobs on one machine meet at different ports, the processes of one at the same.
    const auto port = [&](const std::string& job) {
        return planned({"", {}, with(here, {{"PMIX_NAMESPACE", job}}), ""});
    };
    CHECK(port("prterun-1@1") == port("prterun-1@1"));
    CHECK(port("prterun-1@1") != port("prterun-2@1"));
}
