// Writes the files that the targets begin with to a folder.
#include <cstdio>

#include "tests/fuzz/targets.h"

int main(int count, char** words) {
    if (count != 2) {
        std::fputs("usage: fuzz_seeds FOLDER\n", stderr);
        return 2;
    }
    vvtq::tests::write_fuzz_seeds(words[1]);
}
