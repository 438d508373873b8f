#include "apps/commands/inspect_page.h"

#include "engine/check.h"

namespace vvtq::apps {

void require_inspect_page() { engine::input_error("--html: this build has no page; use --json"); }

std::string inspect_page(const nlohmann::ordered_json&) {
    require_inspect_page();
    return {};
}

}  // namespace vvtq::apps
