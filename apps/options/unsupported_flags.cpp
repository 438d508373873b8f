// Flags of the published program that this one knows but cannot honour, or that have no effect there.
// At the value that changes nothing they are accepted; otherwise the run stops and says why.
#include <algorithm>

#include "apps/options/flag_table.h"

namespace vvtq::apps {
namespace {

enum class Arity { none, one, many };

struct Entry {
    const char* names;
    Arity arity;
    const char* harmless;  // alternatives "a|b"; "" where there are none
    const char* reason;
};

constexpr const char* kNoEffect = "the published program reads it without effect; leave it out";
constexpr const char* kOneOptimizer = "only --opt adamw exists here";
constexpr const char* kOneSchedule = "only --sched cosine exists here";
constexpr const char* kMixedBits = "learned bit widths are not part of this program; set --wbits and --abits";

const Entry kEntries[] = {
    {"--opt", Arity::one, "adamw", kOneOptimizer},
    {"--momentum", Arity::one, "0.9", "adamw has no momentum; set --opt-betas"},
    {"--sched", Arity::one, "cosine", kOneSchedule},
    {"--schedule", Arity::many, "120 160", kOneSchedule},
    {"--cos", Arity::none, "",
     "the published program reads it without effect; --sched cosine is what trains"},
    {"--decay-epochs", Arity::one, "30", kOneSchedule},
    {"--decay-rate,--dr", Arity::one, "0.1", kOneSchedule},
    {"--cooldown-epochs", Arity::one, "10", kNoEffect},
    {"--patience-epochs", Arity::one, "10", kOneSchedule},
    {"--lr-noise", Arity::many, "", "noise on the learning rate is not implemented; leave it out"},
    {"--lr-noise-pct", Arity::one, "0.67", "noise on the learning rate is not implemented; leave it out"},
    {"--lr-noise-std", Arity::one, "1.0", "noise on the learning rate is not implemented; leave it out"},
    {"-a,--arch", Arity::one, "resnet50",
     "the published program reads it without effect; the model is --model"},
    {"--pretrained", Arity::none, "",
     "the published program reads it without effect; weights come from --finetune"},
    {"--drop", Arity::one, "0.0", "the published program builds its models with dropout 0; leave it out"},
    {"--act-layer", Arity::one, "gelu", "the published program builds its models with gelu; leave it out"},
    {"--act-unsigned", Arity::none, "", kNoEffect},
    {"--use-offset", Arity::none, "", "offsets exist after GELU only in this version; leave it out"},
    {"--mixpre", Arity::none, "", kMixedBits},
    {"--bitops-scaler", Arity::one, "0", kMixedBits},
    {"--show-bit-state", Arity::none, "", kMixedBits},
};

/// Whether the given words are one of the alternatives "a|b", as text or as a number.
bool is_harmless(const std::vector<std::string>& given, const std::string& alternatives) {
    const std::string text = value_text(given);
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    const bool number = !text.empty() && *end == '\0';
    std::istringstream in(alternatives);
    for (std::string harmless; std::getline(in, harmless, '|');) {
        if (text == harmless || (number && value == std::strtod(harmless.c_str(), nullptr))) return true;
    }
    return false;
}

}  // namespace

void FlagTable::add_unsupported() {
    for (const Entry& entry : kEntries) {
        std::string help = std::string("refused: ") + entry.reason;
        if (*entry.harmless != '\0') {
            help = std::string("only ") + entry.harmless;
            std::replace(help.begin(), help.end(), '|', ',');
        }
        const std::string& text = help;  // CLI11 would bind the option to a std::string that is not const
        CLI::Option* option = entry.arity == Arity::none ? app_.add_flag(entry.names, text)
                                                         : app_.add_option(entry.names, text);
        if (entry.arity != Arity::none) option->expected(1, entry.arity == Arity::many ? 64 : 1);
        option->group("Published, not honoured");
    }
}

void FlagTable::refuse_unsupported() const {
    for (const Entry& entry : kEntries) {
        const std::string names = entry.names;
        const CLI::Option* option = app_.get_option_no_throw(names.substr(0, names.find(',')));
        if (option == nullptr || option->empty() || is_harmless(option->results(), entry.harmless)) continue;
        engine::input_error("--", option->get_lnames().front(), ": ", entry.reason);
    }
}

}  // namespace vvtq::apps
