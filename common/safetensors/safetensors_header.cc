#include <algorithm>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "common/safetensors/safetensors.h"
#include "nlohmann/json.hpp"

namespace thaw {
namespace {

constexpr uint64_t kMaxHeaderBytes = uint64_t{16} << 20;
constexpr size_t kMaxRank = 8;
constexpr size_t kMaxNameBytes = 512;

struct ElementTypeRow {
  ElementType type;
  const char* name;
  int64_t bytes;
};
constexpr ElementTypeRow kElementTypes[] = {
    {ElementType::kBool, "BOOL", 1}, {ElementType::kU8, "U8", 1},   {ElementType::kI8, "I8", 1},
    {ElementType::kI16, "I16", 2},   {ElementType::kU16, "U16", 2}, {ElementType::kF16, "F16", 2},
    {ElementType::kBF16, "BF16", 2}, {ElementType::kI32, "I32", 4}, {ElementType::kU32, "U32", 4},
    {ElementType::kF32, "F32", 4},   {ElementType::kF64, "F64", 8}, {ElementType::kI64, "I64", 8},
    {ElementType::kU64, "U64", 8}};

// Takes the header's JSON event by event: `{name: {dtype, shape, data_offsets}, "__metadata__":
// {string: string}}` and nothing else. What is wrong is kept in `problem`.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  SafetensorsHeader header;
  std::string problem;

  bool null() override { return Refuse("null"); }
  bool boolean(bool) override { return Refuse("a boolean"); }
  bool number_integer(number_integer_t value) override {
    return Refuse(absl::StrCat("the negative number ", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return Refuse(absl::StrCat("the number ", text));
  }
  bool binary(binary_t&) override { return Refuse("binary"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (list_ == nullptr) return Refuse(absl::StrCat("the number ", value));
    if (value > static_cast<uint64_t>(INT64_MAX)) {
      return Fail(absl::StrCat(Place(), ": number ", value, " is over 2^63 - 1"));
    }
    if (list_->size() >= (list_ == &tensor_.shape ? kMaxRank : 2)) {
      return Fail(absl::StrCat(Place(), ": expected at most ",
                               list_ == &tensor_.shape ? kMaxRank : 2, " numbers"));
    }
    list_->push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (depth_ == 2 && in_metadata_) {
      header.metadata[key_] = value;
      return true;
    }
    if (depth_ != 2 || list_ != nullptr || key_ != "dtype") return Refuse("a string");
    for (const ElementTypeRow& row : kElementTypes) {
      if (value == row.name) {
        tensor_.type = row.type;
        return true;
      }
    }
    return Fail(absl::StrCat(Place(), ": element type \"", value, "\" is not supported"));
  }

  bool start_object(size_t) override {
    if (depth_ >= 2 || list_ != nullptr) return Refuse("an object");
    ++depth_;
    keys_.clear();
    return true;
  }

  bool end_object() override {
    if (depth_-- == 2 && !in_metadata_) return FinishTensor();
    return true;
  }

  bool start_array(size_t) override {
    const bool inside_tensor = depth_ == 2 && !in_metadata_ && list_ == nullptr;
    if (!inside_tensor || (key_ != "shape" && key_ != "data_offsets")) return Refuse("an array");
    list_ = key_ == "shape" ? &tensor_.shape : &offsets_;
    return true;
  }
  bool end_array() override {
    list_ = nullptr;
    return true;
  }

  bool key(string_t& value) override {
    if (depth_ == 1) return StartEntry(value);
    key_ = value;
    if (!keys_.insert(value).second) return Fail(absl::StrCat(Place(), ": key occurs twice"));
    if (in_metadata_ || value == "dtype" || value == "shape" || value == "data_offsets")
      return true;
    return Fail(absl::StrCat(Place(), ": unknown key"));
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::json::exception& error) override {
    return Fail(absl::StrCat("header is not JSON at byte ", position, ": ", error.what()));
  }

 private:
  bool Fail(std::string what) {
    if (problem.empty()) problem = std::move(what);
    return false;
  }
  bool Refuse(absl::string_view what) {
    return Fail(absl::StrCat(Place(), ": ", what, " does not belong here"));
  }
  std::string Place() const {
    if (depth_ == 0 || entry_.empty()) return "header";
    const std::string entry = absl::StrCat("tensor \"", entry_, "\"");
    return depth_ == 1 || key_.empty() ? entry : absl::StrCat(entry, ", \"", key_, "\"");
  }

  bool StartEntry(const std::string& name) {
    entry_ = name;
    key_.clear();
    in_metadata_ = name == "__metadata__";
    if (!names_.insert(name).second) return Fail(absl::StrCat(Place(), ": occurs twice"));
    if (name.empty() || name.size() > kMaxNameBytes || name.find('\0') != std::string::npos) {
      entry_ = name.substr(0, 40);
      return Fail(absl::StrCat(Place(), "…: a name has 1 to ", kMaxNameBytes,
                               " bytes and no NUL, found ", name.size(), " bytes"));
    }
    tensor_ = TensorInfo();
    tensor_.name = name;
    offsets_.clear();
    return true;
  }

  bool FinishTensor() {
    key_.clear();
    for (const char* needed : {"dtype", "shape", "data_offsets"}) {
      if (keys_.count(needed) == 0) {
        return Fail(absl::StrCat("tensor \"", entry_, "\": \"", needed, "\" is missing"));
      }
    }
    if (offsets_.size() != 2) {
      return Fail(absl::StrCat("tensor \"", entry_, "\": expected two data_offsets, found ",
                               offsets_.size()));
    }
    tensor_.begin = offsets_[0];
    tensor_.end = offsets_[1];
    header.tensors.push_back(std::move(tensor_));
    return true;
  }

  int depth_ = 0;
  bool in_metadata_ = false;
  std::string entry_, key_;
  std::set<std::string> names_, keys_;
  TensorInfo tensor_;
  std::vector<int64_t> offsets_;
  std::vector<int64_t>* list_ = nullptr;
};

// nullopt on overflow.
std::optional<int64_t> BytesOf(const TensorInfo& tensor) {
  int64_t bytes = ElementBytes(tensor.type);
  for (int64_t size : tensor.shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) return std::nullopt;
  }
  return bytes;
}

absl::Status CheckLayout(std::vector<TensorInfo>& tensors, int64_t data_bytes,
                         absl::string_view file) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  int64_t covered = 0;
  for (const TensorInfo& tensor : tensors) {
    const std::string place = absl::StrCat(file, ": tensor \"", tensor.name, "\": ");
    if (tensor.begin != covered) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, "expected its data at offset ", covered, ", found ", tensor.begin,
                       tensor.begin > covered ? " (a hole)" : " (an overlap)"));
    }
    const std::optional<int64_t> bytes = BytesOf(tensor);
    if (!bytes || tensor.end < tensor.begin || tensor.end - tensor.begin != *bytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          place, "expected ", bytes ? absl::StrCat(*bytes) : "more than 2^63", " bytes for ",
          ElementTypeName(tensor.type), " [", absl::StrJoin(tensor.shape, ", "), "], found [",
          tensor.begin, ", ", tensor.end, ")"));
    }
    covered = tensor.end;
  }
  if (covered != data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": expected ", covered, " bytes of data, found ", data_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view ElementTypeName(ElementType type) {
  return kElementTypes[static_cast<int>(type)].name;
}
int64_t ElementBytes(ElementType type) { return kElementTypes[static_cast<int>(type)].bytes; }

absl::StatusOr<SafetensorsHeader> ParseSafetensors(absl::string_view bytes,
                                                   absl::string_view file) {
  const auto fail = [&](const auto&... what) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", what...));
  };
  if (bytes.size() < 8) return fail("expected at least 8 bytes, found ", bytes.size());
  uint64_t size = 0;
  for (int i = 7; i >= 0; --i)
    size = size << 8 | static_cast<uint8_t>(bytes[static_cast<size_t>(i)]);
  if (size > kMaxHeaderBytes) {
    return fail("expected a header of at most ", kMaxHeaderBytes, " bytes, found ", size);
  }
  if (size > bytes.size() - 8) {
    return fail("expected a header of ", size, " bytes, found a file of ", bytes.size());
  }
  absl::string_view json = bytes.substr(8, size);
  const size_t last = json.find_last_not_of(' ');
  if (json.empty() || json.front() != '{' || json[last] != '}') {
    return fail("expected a header from { to }, padded with spaces");
  }
  HeaderReader reader;
  const char* begin = json.data();
  if (!nlohmann::json::sax_parse(begin, begin + last + 1, &reader)) return fail(reader.problem);
  reader.header.data_offset = static_cast<int64_t>(8 + size);
  THAW_RETURN_IF_ERROR(
      CheckLayout(reader.header.tensors, static_cast<int64_t>(bytes.size() - 8 - size), file));
  return std::move(reader.header);
}

}  // namespace thaw
