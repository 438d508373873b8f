// targets: the readers of files from elsewhere, each as a function of the file's bytes. fuzz_main.cpp makes a
// program of libFuzzer from each, and a unit test runs them on the findings that were kept.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/bytes.h"

namespace vvtq::tests {

struct FuzzTarget {
    const char* name;
    /// Reads the bytes as the program would read a file of them. An error of the input is fine; whatever else
    /// is thrown is let out.
    void (*run)(std::span<const uint8_t> bytes);
    /// Files to begin with, of the folder tests/.
    std::vector<const char*> seeds;
};

const std::vector<FuzzTarget>& fuzz_targets();

/// The one of that name; null where there is none.
const FuzzTarget* find_fuzz_target(const std::string& name);

/// The bytes of a packed label file with checksums that fit them, as far as its header makes sense: what lies
/// behind the checksums is to be reached by damage too.
data::Bytes mended(data::Bytes bytes);

/// Writes files to begin with to "<folder>/<target>/": of a target's seeds and of kinds that tests/ has none
/// of.
void write_fuzz_seeds(const std::string& folder);

}  // namespace vvtq::tests
