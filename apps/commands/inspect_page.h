// inspect_page: the page that shows an inspection in a browser.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace vvtq::apps {

/// Throws Error(Fault::input) saying what to install where this build has no page.
void require_inspect_page();

/// The page: one file of HTML that needs no other and no network. `inspection` is what `vvtq inspect` writes
/// as JSON. Throws as require_inspect_page does.
std::string inspect_page(const nlohmann::ordered_json& inspection);

}  // namespace vvtq::apps
