#include "data/canvas.h"

#include <algorithm>
#include <cstring>

#include "engine/check.h"

namespace vvtq::data {

void Canvas::reset(const Box& new_box, int new_reduce) {
    VVTQ_CHECK(new_box.height > 0 && new_box.width > 0, new_box.height, " x ", new_box.width);
    box = new_box;
    reduce = new_reduce;
    if (memory(box) > quads.capacity()) quads = {};  // before more is taken
    quads.resize(memory(box));
}

void Canvas::draw(const Box& new_box, const std::function<void(int y, uint8_t* out)>& row) {
    reset(new_box);
    const size_t stride = size_t{4} * static_cast<size_t>(box.width);
    Bytes rows(4 * stride);
    for (int y = 0; y < box.height; ++y) {
        row(box.top + y, rows.data() + stride * static_cast<size_t>(y % 4));
        if (y % 4 == 3 || y + 1 == box.height) write_quad(y / 4, rows.data(), stride);
    }
}

void Canvas::write_quad(int quad_row, const uint8_t* rows, size_t stride) {
    uint8_t* to = quads.data() + quad_row_bytes() * static_cast<size_t>(quad_row);
    const auto width = static_cast<size_t>(box.width);
    for (size_t x = 0; x < width; ++x) {
        for (size_t row = 0; row < 4; ++row) {
            std::memcpy(to + kQuad * x + 4 * row, rows + row * stride + 4 * x, 4);
        }
    }
}

void paint(const Image& image, const Box& box, Canvas& canvas) {
    VVTQ_CHECK(box.top >= 0 && box.left >= 0 && box.height <= image.height - box.top &&
                   box.width <= image.width - box.left,
               box.height, " x ", box.width, " at ", box.top, ", ", box.left, " of ", image.height, " x ",
               image.width);
    canvas.reset(box);
    for (int y = 0; y < box.height; ++y) {
        const uint8_t* in =
            image.rgb.data() + (static_cast<size_t>(box.top + y) * static_cast<size_t>(image.width) +
                                static_cast<size_t>(box.left)) *
                                   3;
        uint8_t* to = canvas.quads.data() + canvas.quad_row_bytes() * static_cast<size_t>(y / 4) +
                      4 * static_cast<size_t>(y % 4);
        for (int x = 0; x < box.width; ++x, in += 3, to += Canvas::kQuad) {
            to[0] = in[0];
            to[1] = in[1];
            to[2] = in[2];
            to[3] = 0;
        }
    }
}

void copy_out(const Canvas& canvas, const Box& box, Bytes& rgb) {
    rgb.assign(static_cast<size_t>(box.height) * static_cast<size_t>(box.width) * 3, 0);
    const Box& held = canvas.box;
    for (int y = 0; y < box.height; ++y) {
        const int row = box.top + y - held.top;
        if (row < 0 || row >= held.height) continue;
        const uint8_t* in = canvas.quads.data() + canvas.quad_row_bytes() * static_cast<size_t>(row / 4) +
                            4 * static_cast<size_t>(row % 4);
        const int begin = std::max(box.left, held.left);
        const int end = std::min(box.left + box.width, held.left + held.width);
        for (int x = begin; x < end; ++x) {
            std::memcpy(&rgb[(static_cast<size_t>(y) * static_cast<size_t>(box.width) +
                              static_cast<size_t>(x - box.left)) *
                             3],
                        in + Canvas::kQuad * static_cast<size_t>(x - held.left), 3);
        }
    }
}

}  // namespace vvtq::data
