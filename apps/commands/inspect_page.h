// inspect_page: the page that shows an inspection in a browser. Its parts lie in apps/inspect_page/.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace vvtq::apps {

/// Throws Error(Fault::input) saying what to install where this build has no page.
void require_inspect_page();

/// The page: one file of HTML that needs no other and no network. `inspection` is what `vvtq inspect` writes
/// as JSON; a text in it cannot become HTML or a script. What the page does not show is left out: samples of
/// the compared checkpoint, epochs beyond 60 of a run (evenly thinned; the last one stays), and their shares
/// of more than 16 codes. Throws as require_inspect_page does.
std::string inspect_page(const nlohmann::ordered_json& inspection);

/// The page before and behind the inspection; in builds that have it (cmake/embed_page.cmake).
extern const char* const kPageBefore;
extern const char* const kPageAfter;

}  // namespace vvtq::apps
