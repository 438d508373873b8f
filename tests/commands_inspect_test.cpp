// `vvtq inspect`, and --bits: widths by name.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "apps/training/checkpoint.h"
#include "tests/model_files.h"

using namespace vvtq;
using namespace vvtq::tests;
using nlohmann::ordered_json;

namespace fs = std::filesystem;

namespace {

const std::set<std::string> kTop = {"format",       "version",  "checkpoint",     "model",      "bytes",
                                    "average_bits", "data",     "bit_operations", "quantizers", "attention",
                                    "tokens",       "training", "other"};
const std::set<std::string> kEntry = {"name",        "role",       "kind",        "quantizer",
                                      "bits",        "range",      "steps",       "offsets",
                                      "groups",      "grad_scale", "shape",       "numel",
                                      "bytes",       "min",        "max",         "mean",
                                      "std",         "occupancy",  "clipped",     "snr_db",
                                      "entropy",     "distance",   "severity",    "variation",
                                      "histogram",   "sample",     "oscillation", "variance_in_bins",
                                      "frozen",      "reason",     "sensitivity", "sample_grad_scale",
                                      "sample_group"};

std::set<std::string> fields_of(const ordered_json& json) {
    std::set<std::string> names;
    for (const auto& [name, value] : json.items()) names.insert(name);
    return names;
}

void write_lines(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

struct InspectFiles : Files {
    std::string out = scratch / "out.json";

    ordered_json inspected(const std::string& checkpoint, const std::string& rest = "") const {
        done("inspect --device cpu " + checkpoint + " --json " + out + " " + rest);
        return ordered_json::parse(text_of(out));
    }
    static const ordered_json& entry(const ordered_json& json, const std::string& name) {
        for (const ordered_json& entry : json["quantizers"]) {
            if (entry["name"] == name) return entry;
        }
        FAIL("no quantizer " << name);
        return json;
    }
    /// Trains with a file of --bits; the checkpoint.
    std::string by_name(const std::string& lines, const std::string& flags = "--wbits 2 --abits 2") const {
        write_lines(scratch / "bits.toml", lines);
        done("train " + flags + " --bits " + scratch / "bits.toml" + " --finetune " + fp + run("named"));
        return scratch / "named/checkpoint.safetensors";
    }
};

/// Names in the first column of the last table.
std::vector<std::string> table_names(const std::string& text) {
    std::vector<std::string> names;
    bool table = false;
    for (const std::string& line : lines_of(text)) {
        if (table) names.push_back(line.substr(0, line.find(' ')));
        if (line.starts_with("quantizer ")) table = true;
    }
    return names;
}

void check_entry(const ordered_json& entry, bool measured) {
    INFO(entry["name"]);
    CHECK(fields_of(entry) == kEntry);
    CHECK(entry["bytes"]["float"] == 4 * entry["numel"].get<int64_t>());
    CHECK(entry["bytes"]["packed"].get<int64_t>() ==
          (entry["numel"].get<int64_t>() * entry["bits"].get<int>() + 7) / 8);
    if (!measured) {
        CHECK(entry["occupancy"].is_null());
        CHECK(entry["severity"].is_null());
        return;
    }
    double sum = 0, counts = 0;
    for (const ordered_json& share : entry["occupancy"]) sum += share.get<double>();
    for (const ordered_json& count : entry["histogram"]["counts"]) counts += count.get<double>();
    CHECK(sum == Approx(1));
    CHECK(counts >= entry["numel"].get<double>());
    const int codes = entry["range"][1].get<int>() - entry["range"][0].get<int>() + 1;
    CHECK(static_cast<int>(entry["occupancy"].size()) == codes);
    CHECK(entry["entropy"].get<double>() <= entry["bits"].get<double>() + 1e-9);
    CHECK(entry["sample"].size() == std::min<size_t>(512, counts));
    CHECK(entry["severity"].is_number());
    CHECK(entry["min"].get<double>() <= entry["sample"][0].get<double>() + 1e-6);
}

}  // namespace

TEST_CASE("inspect tells of every quantizer, as JSON and on the terminal") {
    const InspectFiles files;
    const ordered_json json = files.inspected(files.q);
    CHECK(fields_of(json) == kTop);
    CHECK(json["format"] == "vvtq inspect 1");
    CHECK(json["checkpoint"]["step"].get<int>() == 3);
    CHECK(json["checkpoint"]["top1"].is_number());
    CHECK(json["model"]["wbits"] == 3);
    CHECK(json["model"]["abits"] == 4);
    CHECK(json["model"]["depth"] == 1);
    CHECK(json["model"]["tokens"] == 17);
    for (const char* later : {"data", "attention", "tokens", "training", "other"})
        CHECK(json[later].is_null());
    CHECK(json["quantizers"].size() == 6 + 8 + 4);
    for (const ordered_json& entry : json["quantizers"]) check_entry(entry, entry["role"] == "weight");
    const ordered_json& q = InspectFiles::entry(json, "blocks.0.attn.proj_q");
    CHECK(q["range"] == ordered_json({-4, 3}));
    CHECK(q["steps"][0].get<double>() == values_of(files.q, kStep)[0]);
    CHECK(q["shape"] == ordered_json({16, 16}));
    const ordered_json& hidden = InspectFiles::entry(json, "blocks.0.mlp.quant2");
    CHECK(hidden["role"] == "activated");
    CHECK(hidden["offsets"].size() == 1);
    CHECK(hidden["shape"] == ordered_json({17, 64}));
    // 17 tokens, 16 wide, hidden 64: projections and MLP at 3 x 4, attention at 4 x 4, first and last at 8 x
    // 8
    const double width = 16, tokens = 17;
    const double layers = tokens * width * width * (4 + 8), attention = 2 * tokens * tokens * width;
    CHECK(json["bit_operations"].get<double>() ==
          layers * 12 + attention * 16 + (16 * 3 * 49 * width + 3 * width) * 64);
    CHECK(json["bytes"]["packed"].get<int64_t>() < json["bytes"]["float"].get<int64_t>() / 3);

    const std::string text = files.done("inspect --device cpu " + files.q + " --sort snr");
    const std::vector<std::string> names = table_names(text);
    REQUIRE(names.size() == json["quantizers"].size());
    double before = -1e9;
    for (const std::string& name : names) {
        const ordered_json& snr = InspectFiles::entry(json, name)["snr_db"];
        if (snr.is_null()) break;  // activations are not measured without pictures
        CHECK(snr.get<double>() >= before);
        before = snr.get<double>();
    }
    const auto worst =
        std::max_element(json["quantizers"].begin(), json["quantizers"].end(),
                         [](const ordered_json& a, const ordered_json& b) {
                             const auto severity = [](const ordered_json& e) {
                                 return e["severity"].is_null() ? -1.0 : e["severity"].get<double>();
                             };
                             return severity(a) < severity(b);
                         });
    CHECK(has(text, "\n  1. " + (*worst)["name"].get<std::string>() + ": "));
    CHECK(has(text, "\n  5. "));
    CHECK(!has(text, "\n  6. "));
    const std::string kinds = files.done("inspect --device cpu " + files.q + " --by-kind");
    const std::vector<std::string> rows = lines_of(kinds);
    const auto row = std::find_if(rows.begin(), rows.end(),
                                  [](const std::string& line) { return line.starts_with("proj_q "); });
    REQUIRE(row != rows.end());
    char expected[64];
    std::snprintf(expected, sizeof expected, "%.4g", q["variation"]["magnitude"].get<double>());
    CHECK(has(*row, expected));
    std::vector<std::string> by_name =
        table_names(files.done("inspect --device cpu " + files.q + " --sort name"));
    CHECK(std::is_sorted(by_name.begin(), by_name.end()));
}

TEST_CASE("inspect with pictures measures activations, attention, tokens and sensitivity") {
    const InspectFiles files;
    const std::string pictures = " --data " + files.data + " -j 0 ";
    const ordered_json json =
        files.inspected(files.q, pictures + "--sensitivity --metrics " + files.scratch / "q/metrics.jsonl" +
                                     " --compare " + files.q);
    CHECK(json["data"]["pictures"] == 24);
    const std::string evaluated = files.done("train --evaluate --resume " + files.q + " --data " +
                                             files.data + " --device cpu --threads 1");
    char top1[32];
    std::snprintf(top1, sizeof top1, " * Acc@1 %.3f", json["data"]["top1"].get<double>());
    CHECK(has(evaluated, top1));
    for (const ordered_json& entry : json["quantizers"]) {
        check_entry(entry, true);
        CHECK(entry["sensitivity"]["float"]["loss"].get<double>() > 0);
        CHECK(entry["sensitivity"]["two_bit"]["top1"].is_number());
    }
    const ordered_json& block = json["attention"]["blocks"][0];
    CHECK(block["name"] == "blocks.0.attn");
    CHECK(json["attention"]["grid"] == ordered_json({4, 4}));
    CHECK(json["attention"]["picture"]["width"] == 28);
    CHECK(json["attention"]["picture"]["rgb"].get<std::string>().size() == 28 * 28 * 4);
    for (const ordered_json& head : block["heads"]) {
        double sum = 0;
        for (const ordered_json& p : head["before"]) sum += p.get<double>();
        CHECK(sum == Approx(1).margin(1e-3));
        CHECK(head["after"].size() == 17);
        CHECK(head["error"].get<double>() > 0);
    }
    CHECK(json["tokens"]["norms"].size() == 1);
    CHECK(json["tokens"]["norms"][0].size() == 17);
    const ordered_json& run = json["training"]["runs"][0];
    CHECK(run["name"] == "q");
    CHECK(run["reg"] == false);
    CHECK(run["epochs"].size() == 1);
    CHECK(run["epochs"][0]["val_top1"] == json["checkpoint"]["top1"]);
    CHECK(json["other"]["quantizers"] == json["quantizers"]);
    CHECK(!json["other"].contains("attention"));

    const ordered_json few = files.inspected(files.q, pictures + "--pictures 5 -b 2");
    CHECK(few["data"]["pictures"] == 5);
    CHECK(few["data"]["batch"] == 2);
}

TEST_CASE("inspect reads packed files, heads' steps, one bit and the other families") {
    const InspectFiles files;
    files.done("export " + files.q + " " + files.scratch / "packed.safetensors");
    const ordered_json packed = files.inspected(files.scratch / "packed.safetensors");
    const ordered_json& q = InspectFiles::entry(packed, "blocks.0.attn.proj_q");
    CHECK(q["snr_db"].is_null());  // weights are their codes
    CHECK(q["distance"]["center"].get<double>() == Approx(0).margin(1e-6));

    files.done("train --wbits 2 --abits 2 --head-wise --finetune " + files.fp + files.run("heads"));
    const ordered_json heads =
        files.inspected(files.scratch / "heads/checkpoint.safetensors", "--data " + files.data + " -j 0");
    for (const ordered_json& entry : heads["quantizers"]) check_entry(entry, true);
    CHECK(InspectFiles::entry(heads, "blocks.0.attn.proj_q")["groups"] ==
          InspectFiles::entry(heads, "blocks.0.attn.proj_q")["steps"].size());
    files.done("train --wbits 1 --abits 1 --finetune " + files.fp + files.run("one"));
    const ordered_json one =
        files.inspected(files.scratch / "one/checkpoint.safetensors", "--data " + files.data + " -j 0");
    for (const ordered_json& entry : one["quantizers"]) check_entry(entry, true);
    const ordered_json& signs = InspectFiles::entry(one, "blocks.0.attn.proj_q");
    CHECK(signs["range"] == ordered_json({-1, 1}));
    CHECK(signs["steps"][0] == signs["variation"]["magnitude"]);

    const std::string common = " --wbits 2 --abits 2 --data " + files.data +
                               " -b 8 -j 0 --warmup-epochs 0 --epochs 1 --max-steps 1 --device cpu ";
    const std::pair<std::string, size_t> families[] = {
        {"--model swin_tiny_patch4_window7_224 --img-size 32 --patch-size 4 --window-size 4 --embed-dim 8 "
         "--depths 2 2 --num-heads 1 2",
         4},
        {"--model SReT_T --img-size 32 --embed-dim 10 --depths 2 2 2 --num-heads 1 1 1", 6}};
    for (const auto& [model, blocks] : families) {
        INFO(model);
        files.done("train " + model + common + " --save_checkpoint_path " + files.scratch / "family");
        const ordered_json json = files.inspected(files.scratch / "family/checkpoint.safetensors",
                                                  "--data " + files.data + " -j 0");
        CHECK(fields_of(json) == kTop);
        for (const ordered_json& entry : json["quantizers"]) {
            check_entry(entry, entry["numel"].get<int64_t>() > 0);
        }
        CHECK(json["attention"]["blocks"].size() == blocks);
        CHECK(json["bit_operations"].get<double>() > 0);
        fs::remove_all(files.scratch / "family");
    }
}

TEST_CASE("inspect refuses what it cannot do, in one line") {
    const InspectFiles files;
    files.refused("inspect", {"name a checkpoint"});
    files.refused("inspect " + files.fp, {files.fp, "full-precision"});
    files.refused("inspect " + files.scratch / "missing", {"missing"});
    files.refused("inspect " + files.q + " --sort size", {"--sort", "severity"});
    files.refused("inspect " + files.q + " --by-kind --sort snr", {"--sort", "--by-kind"});
    files.refused("inspect " + files.q + " --sensitivity", {"--sensitivity", "--data"});
    files.refused("inspect " + files.q + " --suggest-bits 1e6", {"--suggest-bits", "--sensitivity"});
    files.refused("inspect " + files.q + " --compare " + files.q, {"--compare", "--json"});
    files.refused("inspect " + files.q + " --wbits 3", {"--wbits", "says its bit widths"});
    const std::string with =
        "inspect " + files.q + " --device cpu --data " + files.data + " -j 0 --sensitivity ";
    files.refused(with + "--suggest-bits few", {"--suggest-bits", "few"});
    files.refused(with + "--suggest-bits 10", {"--suggest-bits", "10"});
    files.refused("inspect " + files.q + " --json " + files.q, {"--json", files.q, "another file"});
    files.refused("inspect " + files.q + " --json " + files.out + " --compare " + files.out,
                  {"--json", files.out, "another file"});
    files.refused("inspect " + files.q + " --json " + files.scratch / "none/x.json", {"none/x.json"});
    write_lines(files.scratch / "bad.jsonl", "{\"kind\": \"train\"}\n");
    files.refused("inspect " + files.q + " --device cpu --json " + files.out + " --metrics " +
                      files.scratch / "bad.jsonl",
                  {"--metrics", "bad.jsonl", "line 1"});
}

TEST_CASE("inspect reads what --track-osc logged and kept") {
    const InspectFiles files;
    files.done("train --wbits 2 --abits 2 --track-osc --finetune " + files.fp + files.run("tracked"));
    const ordered_json json = files.inspected(files.scratch / "tracked/checkpoint.safetensors",
                                              " --metrics " + files.scratch / "tracked/metrics.jsonl");
    const ordered_json& epoch = json["training"]["runs"][0]["epochs"].back();
    CHECK(epoch["osc"]["share"].is_number());
    for (const ordered_json& entry : json["quantizers"]) {
        INFO(entry["name"]);
        const ordered_json& logged = epoch["quantizers"][entry["name"].get<std::string>()];
        CHECK(logged["step"].get<double>() == Approx(entry["steps"][0].get<double>()));
        if (entry["role"] != "weight") continue;
        for (size_t code = 0; code < entry["occupancy"].size(); ++code) {
            const double share = entry["occupancy"][code].get<double>();
            CHECK(logged["occupancy"][code].get<double>() == Approx(share).margin(1e-9));
        }
        CHECK(entry["oscillation"]["share"].get<double>() == Approx(logged["osc"].get<double>()));
    }
}

TEST_CASE("widths by name (--bits) survive training, evaluation, resuming and export") {
    const InspectFiles files;
    const std::string lines =
        "\"blocks.*\" = 4\n\"blocks.*.proj_q\" = 3\n\"*.quant_attn\" = 5\nhead = 6\n\"*.fc1\" = 32\n";
    const std::string named = files.by_name(lines);
    const std::map<std::string, int> widths = {{"blocks.0.attn.proj_q", 3},     {"blocks.0.attn.proj_k", 4},
                                               {"blocks.0.attn.quant_attn", 5}, {"blocks.0.mlp.quant2", 4},
                                               {"patch_embed.proj", 8},         {"head", 6}};
    const auto check_widths = [&](const ordered_json& json) {
        for (const auto& [name, bits] : widths) {
            INFO(name);
            CHECK(InspectFiles::entry(json, name)["bits"] == bits);
        }
        for (const ordered_json& entry : json["quantizers"]) CHECK(entry["name"] != "blocks.0.mlp.fc1");
    };
    check_widths(files.inspected(named));
    CHECK(has(files.done("inspect --device cpu " + named), "with widths by name"));

    const std::string validation = files.data + "/val";
    const std::string logits = files.predict(named, "--json --logits " + validation);
    files.done("train --evaluate --resume " + named + " --data " + files.data + " --device cpu");
    files.done("export " + named + " " + files.scratch / "packed.safetensors");
    check_widths(files.inspected(files.scratch / "packed.safetensors"));
    CHECK(files.predict(files.scratch / "packed.safetensors", "--json --logits " + validation) == logits);
    if (apps::Checkpoint(named, "CKPT").info()) {
        files.done("train --resume " + named + " --epochs 2 -p 1 --data " + files.data +
                   " -j 1 --threads 1 --device cpu --save_checkpoint_path " + files.scratch / "named");
        check_widths(files.inspected(named));
    }
    files.refused(
        "train --resume " + named + " --bits " + files.scratch / "other.toml" + " --data " + files.data,
        {"other.toml"});
    write_lines(files.scratch / "other.toml", "head = 7\n");
    files.refused("train --resume " + named + " --bits " + files.scratch / "other.toml" + " --data " +
                      files.data + " --device cpu",
                  {"--bits head=7", "there blocks.*=4 "});
    files.refused("predict " + named + " " + validation + " --bits " + files.scratch / "other.toml",
                  {"--bits", "says its bit widths"});
    files.refused("train --keep-steps --finetune " + named + " --wbits 2 --abits 2" + files.run("kept"),
                  {"--keep-steps", "widths by name"});
}

TEST_CASE("widths by name: the last match counts, with and without quotes") {
    const InspectFiles files;
    const ordered_json json = files.inspected(files.by_name(
        "blocks.0.attn.proj_q = 3\n\"blocks.*\" = 4\nblocks.0.attn.proj_k = 2\n\"*.proj_v\" = 5\n"));
    for (const auto& [name, bits] : std::map<std::string, int>{{"q", 4}, {"k", 2}, {"v", 5}}) {
        CHECK(InspectFiles::entry(json, "blocks.0.attn.proj_" + name)["bits"] == bits);
    }
}

TEST_CASE("widths by name: a file that names nothing, or no width, is refused") {
    const InspectFiles files;
    const auto refused = [&](const std::string& lines, const std::vector<std::string>& words) {
        write_lines(files.scratch / "bits.toml", lines);
        files.refused("train --wbits 2 --abits 2 --bits " + files.scratch / "bits.toml" + files.run("never"),
                      words);
    };
    refused("head = 4\n\"blocks.7.*\" = 3\n", {"--bits", "'blocks.7.*'", "vvtq inspect"});
    refused("head = 9\n", {"--bits", "line 1", "head", "1 to 8"});
    refused("head = \"4\"\n", {"--bits", "line 1", "1 to 8"});
    refused("\"a b\" = 4\n", {"--bits", "'a b'"});
    refused("head 4\n", {"--bits", "line 1", "TOML"});
    refused("", {"--bits", "no widths"});
    CHECK(!fs::exists(files.scratch / "never/checkpoint.safetensors"));
}

TEST_CASE("inspect suggests bits that --bits takes, within the budget") {
    const InspectFiles files;
    const std::string bits = files.scratch / "suggested.toml";
    const std::string text = files.done("inspect --device cpu " + files.q + " --data " + files.data +
                                        " -j 0 --sensitivity --suggest-bits W3A3 --bits-out " + bits);
    CHECK(has(text, "suggested bits: "));
    const std::string named = files.by_name(text_of(bits));
    const ordered_json mixed = files.inspected(named);
    files.done("train --wbits 3 --abits 3 --finetune " + files.fp + files.run("uniform"));
    const ordered_json uniform = files.inspected(files.scratch / "uniform/checkpoint.safetensors");
    CHECK(mixed["bit_operations"].get<double>() <= uniform["bit_operations"].get<double>());
    CHECK(mixed["bit_operations"].get<double>() > 0.8 * uniform["bit_operations"].get<double>());
    std::set<int> widths;
    for (const ordered_json& entry : mixed["quantizers"]) widths.insert(entry["bits"].get<int>());
    CHECK(widths.size() > 2);

    const std::string bytes =
        files.done("inspect --device cpu " + files.q + " --data " + files.data +
                   " -j 0 --sensitivity --suggest-bits 4000 --budget-of bytes --bits-out " + bits);
    CHECK(has(bytes, "bytes of weights of a budget of 4000"));
}
