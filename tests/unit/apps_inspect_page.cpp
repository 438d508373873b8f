// The page of an inspection as text; tests/page_test.py looks at it in a browser.
#include "apps/commands/inspect_page.h"
#include "engine/check.h"
#include "tests/catch.h"

using namespace vvtq;
using nlohmann::ordered_json;

namespace {

/// False, after a check of the message, where this build has no page.
bool has_page() {
    try {
        apps::require_inspect_page();
        return true;
    } catch (const engine::Error& error) {
        CHECK(error.fault() == engine::Fault::input);
        CHECK(std::string(error.what()).find("node-d3") != std::string::npos);
        return false;
    }
}

size_t count_of(const std::string& text, const std::string& part) {
    size_t count = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
    return count;
}

/// The inspection that a page holds.
ordered_json inspection_in(const std::string& page) {
    const std::string start = "id=\"inspection\">";
    const size_t begin = page.find(start) + start.size();
    return ordered_json::parse(page.substr(begin, page.find("</script>", begin) - begin));
}

}  // namespace

TEST_CASE("inspect page: no text of an inspection ends its script element", "[inspect]") {
    if (!has_page()) return;
    const std::string hostile = "</script><script>alert(1)</script><!--<script>\xff";
    const ordered_json inspection = {{"checkpoint", {{"path", hostile}}}, {hostile, nullptr}};
    const std::string page = apps::inspect_page(inspection),
                      empty = apps::inspect_page(ordered_json::object());
    for (const char* part : {"<script", "</script", "<!--"})
        CHECK(count_of(page, part) == count_of(empty, part));
    CHECK(inspection_in(page)["checkpoint"]["path"].get<std::string>().starts_with("</script><script>alert"));
    CHECK(page.find("Copyright: 2010-2017, Mike Bostock") != std::string::npos);  // the licence of d3
    CHECK(page.find("Redistribution and use in source and binary forms") != std::string::npos);
}

TEST_CASE("inspect page: what it does not show is left out", "[inspect]") {
    if (!has_page()) return;
    ordered_json epochs = ordered_json::array();
    for (int i = 0; i < 151; ++i) {
        epochs.push_back({{"epoch", i},
                          {"train_loss", 0.123456789},
                          {"quantizers",
                           {{"few", {{"occupancy", std::vector<double>(4, 0.25)}}},
                            {"many", {{"occupancy", std::vector<double>(256, 0.1)}}}}}});
    }
    const ordered_json quantizer = {
        {"name", "head"}, {"sample", {1.0, 2.0}}, {"histogram", nullptr}, {"bits", 2}};
    const ordered_json run = {{"name", "a"}, {"epochs", epochs}};
    const ordered_json inspection = {{"quantizers", ordered_json::array({quantizer})},
                                     {"training", {{"runs", ordered_json::array({run})}}},
                                     {"other", {{"quantizers", ordered_json::array({quantizer})}}}};
    const ordered_json shown = inspection_in(apps::inspect_page(inspection));
    const ordered_json& kept = shown["training"]["runs"][0]["epochs"];
    REQUIRE(kept.size() == 60);
    CHECK(kept.front()["epoch"] == 0);
    CHECK(kept.back()["epoch"] == 150);
    CHECK(kept[1]["train_loss"] == 0.123457);
    CHECK(kept[1]["quantizers"]["few"]["occupancy"].size() == 4);
    CHECK(!kept[1]["quantizers"]["many"].contains("occupancy"));
    CHECK(shown["quantizers"][0] == quantizer);
    CHECK(shown["other"]["quantizers"][0] == ordered_json{{"name", "head"}, {"bits", 2}});
}
