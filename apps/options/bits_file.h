// bits_file: widths of quantizers by name, the file of --bits.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace vvtq::apps {

/// Reads a file of lines such as `"blocks.*.attn.proj_q" = 3`, whose names are patterns of quant::BitWidths.
/// Returns them as checkpoints keep them: "blocks.*.attn.proj_q=3 head=4". Throws Error(Fault::input) naming
/// the line where a width is none of 1..8 and 32.
std::string read_bits_file(const std::string& path);

/// Such a text as pairs of pattern and width. Throws Error(Fault::input) where it is none.
std::vector<std::pair<std::string, int>> parse_bits(const std::string& text);

}  // namespace vvtq::apps
