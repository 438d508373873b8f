// `vvtq inspect`: what the quantizers of a checkpoint do.
#include <algorithm>
#include <filesystem>
#include <iostream>

#include "apps/commands/commands.h"
#include "apps/commands/inspect_page.h"
#include "apps/commands/inspection.h"
#include "apps/commands/model_setup.h"
#include "apps/commands/training_setup.h"
#include "apps/training/interrupt.h"
#include "data/bytes.h"
#include "engine/check.h"

namespace vvtq::apps {
namespace {

std::string dumped(const ordered_json& json) {
    return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

void write_text(const std::string& path, const std::string& text) {
    data::AtomicFile file(path);
    file.write(text.data(), text.size());
    file.commit();
}

/// Throws Error(Fault::input) where a file to write is one that is read, another one to write, or cannot be
/// written: before the work.
void check_outputs(const InspectFlags& flags) {
    std::vector<std::string> others = flags.metrics;
    others.push_back(flags.checkpoint);
    others.push_back(flags.compare);
    for (const auto& [flag, path] :
         {std::pair{"--json", flags.json}, {"--html", flags.html}, {"--bits-out", flags.bits_out}}) {
        if (path.empty()) continue;
        for (const std::string& other : others) {
            std::error_code missing;
            if (path == other || std::filesystem::equivalent(path, other, missing)) {
                engine::input_error(flag, ": '", data::printable(path),
                                    "' is another file of this command; name a file of its own");
            }
        }
        others.push_back(path);
        const data::AtomicFile can_be_written(path);
    }
}

data::LoaderOptions picture_loader(const Options& options, const Checkpoint& checkpoint, int64_t image_size) {
    data::LoaderOptions loader;
    loader.mode = data::LoaderMode::evaluation;
    loader.batch_size = static_cast<int>(options.data.batch_size);
    loader.image_size = static_cast<int>(image_size);
    loader.workers = options.data.workers;
    loader.shorter_side = shorter_side(picture_crop(checkpoint), image_size);
    loader.interrupted = interrupted;
    set_bad_image(options, loader);
    return loader;
}

/// One checkpoint, with the pictures where there are any. Nothing where a signal arrived.
std::optional<Inspected> inspect_one(Options& options, const Checkpoint& checkpoint, const Compute& compute,
                                     const data::Dataset* dataset) {
    std::vector<std::string> notes;
    Inspected found =
        inspect_checkpoint(options, checkpoint, compute, dataset != nullptr ? dataset->classes() : 0, notes);
    for (const std::string& note : notes) std::cerr << note << std::endl;
    if (dataset != nullptr) {
        const Pictures pictures(*dataset, options.inspect.pictures,
                                picture_loader(options, checkpoint, found.model->config().img_size), found);
        if (interrupted()) return {};
        add_pictures(found, pictures);
        if (options.inspect.sensitivity && !add_sensitivity(found, pictures)) return {};
    }
    add_severity(found.json);
    return found;
}

}  // namespace

int command_inspect(Options& options) {
    install_interrupt_handler();
    const InspectFlags& flags = options.inspect;
    if (flags.checkpoint.empty()) engine::input_error("name a checkpoint: vvtq inspect CKPT");
    if (!flags.html.empty()) require_inspect_page();
    if (options.run.precision == "int8") {
        engine::input_error("--precision: int8 hides the values that are looked at here; use fp32");
    }
    check_outputs(flags);
    const Compute compute = pick_compute(options.run);
    const bool with_pictures = options.given("--data") || options.given("--dataset");
    const Checkpoint checkpoint(flags.checkpoint, "CKPT");
    const auto dataset =
        with_pictures ? data::open_dataset(options.data.dataset, options.data.dir, data::Split::evaluation)
                      : nullptr;
    const auto stopped = [] {
        std::cerr << "vvtq inspect: stopped by " << interrupt_name() << std::endl;
        return 1;
    };
    auto found = inspect_one(options, checkpoint, compute, dataset.get());
    if (!found) return stopped();
    if (!flags.metrics.empty()) found->json["training"] = training_runs(flags.metrics);
    if (!flags.compare.empty()) {
        const auto other =
            inspect_one(options, Checkpoint(flags.compare, "--compare"), compute, dataset.get());
        if (!other) return stopped();
        ordered_json json = other->json;
        for (const char* left_out : {"attention", "training", "other"}) json.erase(left_out);
        found->json["other"] = std::move(json);
    }
    std::cout << inspection_text(found->json, flags);
    if (!flags.suggest_bits.empty()) {
        const SuggestedBits suggested = suggest_bits(*found, flags);
        std::cout << '\n' << suggested.line << '\n';
        if (!flags.bits_out.empty()) write_text(flags.bits_out, suggested.file);
    }
    if (!flags.json.empty()) write_text(flags.json, dumped(found->json) + '\n');
    if (!flags.html.empty()) write_text(flags.html, inspect_page(found->json));
    return 0;
}

}  // namespace vvtq::apps
