// packed_labels: the labels of all pictures in one file, mapped and never loaded: a million pictures open as
// fast as one.
//
// A header of 128 bytes, one record of fixed size a picture, then the pictures' names. All numbers are
// little-endian. A record holds, with M crops a picture and the sizes of label_types.h,
//     picture u32, its number in the data set | coords (M, 4) f32 | index (M, indices) i32 | value (M,
//     values) f32 | flip (M) u8, padded to 4 bytes
// and the names' part
//     end (pictures) u64, where each name ends in the text | order (pictures) u32, records sorted by name |
//     the text
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/soft_labels.h"

namespace vvtq::data {

/// A packed label file.
class PackedLabels : public SoftLabels {
  public:
    /// Errors: input_error naming the file where it is missing, truncated, or of another kind or version.
    /// Files up to 64 MiB are validated whole, larger ones crop by crop as they are read.
    static PackedLabels open(const std::string& path);

    /// From now on pictures are those of `dataset`, which must outlive the labels. Where the file was made
    /// for it picture by picture, record i is picture i; else records are found by label_name(). Errors:
    /// input_error unless the file labels this data set.
    void match(const Dataset& dataset);

    void read(int64_t picture, PictureLabels& labels) const override;
    std::string place(int64_t picture) const override;
    uint64_t content_hash() const override;

    /// The name of record `record`.
    std::string_view name(int64_t record) const;
    /// The record of that name, -1 where there is none.
    int64_t find(std::string_view name) const;
    /// Reads every crop once.
    void validate() const;

  private:
    PackedLabels(const std::string& path, MappedFile file, const SoftLabelHeader& header);

    MappedFile file_;
    const Dataset* by_name_ = nullptr;  // null: record i is picture i
};

/// Writes a packed file picture by picture. What is written stays in "<path>.partial" until finish().
class PackedLabelWriter {
  public:
    /// header.pictures is ignored. Errors: input_error where the file cannot be made.
    PackedLabelWriter(const std::string& path, const SoftLabelHeader& header);
    PackedLabelWriter(const PackedLabelWriter&) = delete;
    PackedLabelWriter& operator=(const PackedLabelWriter&) = delete;
    /// Without finish() the partial file is removed, or kept where resume() was called.
    ~PackedLabelWriter();

    /// Goes on where a stopped run of the same header left a partial file, whose pictures are kept. Returns
    /// the number of the data set's picture that comes next. To be called before append(). Errors:
    /// input_error naming a partial file that was made with other settings.
    int64_t resume(const Dataset& dataset);

    /// The labels of the data set's picture `picture`, which comes after those before; header.crops crops.
    void append(int64_t picture, const std::string& name, const PictureLabels& labels);
    /// Flushes, and renames over `path`. At least one picture must have been appended.
    void finish();

  private:
    void write(const void* data, size_t size);
    [[noreturn]] void fail(const char* action) const;
    void write_header();

    std::string path_, partial_;
    SoftLabelHeader header_;
    int descriptor_ = -1;
    bool keep_ = false;
    int64_t next_ = 0;  // picture that may come next
    std::vector<std::string> names_;
    Bytes record_;
};

/// Labels as a teacher gives them. coords: (M); flips: (M); p: (M, C), its softmax, packed here. The result
/// lies in labels.own_...
void pack_labels(LabelType type, std::span<const Coords> coords, std::span<const uint8_t> flips,
                 std::span<const float> p, PictureLabels& labels);

}  // namespace vvtq::data
