// The one place where stb_image is compiled; png.cpp calls it.
#define STB_IMAGE_IMPLEMENTATION
#include "data/stb_image.h"
