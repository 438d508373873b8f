// The test program. It fails where a test recorded an op that has no row in the op table.
#define CATCH_CONFIG_RUNNER
#include <algorithm>
#include <iostream>

#include "tests/catch.h"
#include "tests/op_cases.h"

int main(int argc, char** argv) {
    const int failures = Catch::Session().run(argc, argv);
    bool complete = true;
    for (const std::string& op : vvtq::autograd::recorded_ops()) {
        const auto& rows = vvtq::tests::op_cases();
        const bool has_row =
            std::any_of(rows.begin(), rows.end(), [&](const auto& row) { return row.op == op; });
        if (!has_row && op.rfind("test.", 0) != 0) {
            std::cerr << "op " << op << " was recorded but has no row in tests/op_cases\n";
            complete = false;
        }
    }
    return failures != 0 ? failures : complete ? 0 : 1;
}
