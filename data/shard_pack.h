// shard_pack: a folder of pictures into shards (shard_index.h), and back.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace vvtq::data {

struct PackOptions {
    int resize = 0;    ///< pictures whose shorter side is above become JPEGs with this one; 0: none
    int quality = 95;  ///< of these
    uint64_t shard_bytes = uint64_t{1000} * 1000 * 1000;  ///< at most, of more than one picture
};

/// How far it got.
struct Packed {
    int64_t pictures = 0, of = 0;
    int64_t reencoded = 0;  ///< pictures that were brought to another size
    int64_t shards = 0;
    uint64_t bytes = 0;  ///< of the pictures
};

/// Asked now and then whether to stop; told how far it got.
using PackProgress = std::function<bool(const Packed& so_far)>;

/// Packs train/, val/ and test/ of the image folder `dir`, those that are there, into folders of these names
/// in the new folder `out`. Bytes of pictures are kept, but for those that are brought to another size: these
/// are shrunk by Pillow's bicubic filter to the shorter side `resize` and the longer one
/// floor(resize longer / shorter), and written as RGB JPEGs. Uses threads() threads. Where it fails or was
/// stopped, `out` is not there. Errors: input_error where no split is there, a picture cannot be read or (to
/// be resized) decoded, or `out` is there already.
Packed pack_folder(const std::string& dir, const std::string& out, const PackOptions& options,
                   const PackProgress& stops);

/// The inverse: the files of the pictures, <split>/<class>/<picture>, in the new folder `out`. Every byte of
/// the archives is looked at. Errors: input_error naming shard and member where one is not as it was written.
Packed unpack_folder(const std::string& dir, const std::string& out, const PackProgress& stops);

}  // namespace vvtq::data
