// augmentation_pictures: the pictures of docs/augmentation, drawn by the code they show.
#pragma once

#include <map>
#include <string>

#include "data/image.h"

namespace vvtq::tests {

/// A house in front of hills, side x side, drawn; `night` for another one.
data::Image landscape(int side, bool night);

/// File name and picture of each sheet.
std::map<std::string, data::Image> augmentation_sheets();

data::Bytes encode_png(const data::Image& image);

}  // namespace vvtq::tests
