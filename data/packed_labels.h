// packed_labels: the labels of all pictures in one file, read record by record: a million pictures open as
// fast as one.
//
// A header of 128 bytes, one record of fixed size a picture, then the pictures' names. All numbers are
// little-endian. A record holds, with M crops a picture and the sizes of label_types.h,
//     picture u32, its number in the data set | coords (M, 4) f32 | index (M, indices) i32 | value (M,
//     values) f32 | flip (M) u8, padded to 4 bytes | checksum u32 of the record's number and these bytes
// and the names' part
//     end (pictures) u64, where each name ends in the text | order (pictures) u32, records sorted by name |
//     the text
// whose checksum stands in the header, as does the header's own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/packed_format.h"
#include "data/soft_labels.h"

namespace vvtq::data {

/// A packed label file.
class PackedLabels : public SoftLabels {
  public:
    /// Errors: input_error naming the file where it is missing, truncated, damaged, or of another kind or
    /// version. Records of files up to 64 MiB are validated at once, those of larger ones as they are read.
    static PackedLabels open(const std::string& path);

    /// From now on pictures are those of `dataset`, which must outlive the labels. Where the file was made
    /// for it picture by picture, record i is picture i; else records are found by label_name(). Errors:
    /// input_error unless the file labels this data set.
    void match(const Dataset& dataset);

    void read(int64_t picture, PictureLabels& labels) const override;
    std::string place(int64_t picture) const override;
    std::string note() const override;
    uint64_t content_hash() const override;

    PackedNames names() const;
    /// Reads every crop and every name once.
    void validate() const;

  private:
    PackedLabels(const std::string& path, const PositionedFile& file, const PackedHeader& raw,
                 const SoftLabelHeader& header);
    int64_t record_of(int64_t picture) const;
    [[noreturn]] void refuse_record(int64_t picture, int64_t record) const;

    PositionedFile file_;
    PackedHeader raw_;
    PackedLayout layout_;
    const Dataset* dataset_ = nullptr;
    std::shared_ptr<const PackedNames> names_;  // null: record i is picture i
};

/// Writes a packed file picture by picture. What is written stays in "<path>.partial" until finish(). The
/// partial file is locked: one writer at a time.
class PackedLabelWriter {
  public:
    /// header.pictures is ignored. Errors: input_error where the file cannot be made, where something else
    /// than a regular file has its name, and where another process writes it.
    PackedLabelWriter(const std::string& path, const SoftLabelHeader& header);
    PackedLabelWriter(const PackedLabelWriter&) = delete;
    PackedLabelWriter& operator=(const PackedLabelWriter&) = delete;
    /// Without finish() the partial file is removed, or kept where resume() was called.
    ~PackedLabelWriter();

    /// Goes on where a stopped run of the same header left a partial file: the pictures up to the first
    /// damaged record are kept. To be called before append(); not to be used on where it was stopped. Errors:
    /// input_error naming a partial file that was made with other settings.
    Resumed resume(const Dataset& dataset, const Stop& stop);

    /// The labels of the data set's picture `picture`, which comes after those before; header.crops crops.
    /// Errors: input_error where it would overwrite what a stopped run left and resume() was not called.
    void append(int64_t picture, const std::string& name, const PictureLabels& labels);
    /// Flushes, and renames over `path`. At least one picture must have been appended.
    void finish();

  private:
    void open_partial();
    void write(const void* data, size_t size);
    void read_at(uint64_t at, void* to, size_t size) const;
    uint64_t size() const;
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
