// jpeg_writer: pictures of their own for tests that read folders.
#pragma once

#include <string>

#include "data/image.h"

namespace vvtq::tests {

/// A JPEG of quality 90, chroma at half resolution.
void write_jpeg(const std::string& path, const data::Image& image);

/// A folder data set like CIFAR-10's of JPEGs: train/ and test/ with ten class folders of 32 x 32 pictures,
/// whose hue and the place of a bar tell the class, with noise.
void write_cifar_like(const std::string& dir, int train, int test);

}  // namespace vvtq::tests
