#include "common/dataset/delimited_rows.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/clean_text.h"

namespace thaw {
namespace {

constexpr size_t kMaxNameBytes = 64;

bool IsLineEnd(int byte) { return byte == '\n' || byte == '\r' || byte == ByteInput::kEnd; }

const char* Skip(const char* at, bool (*in)(char)) {
  while (in(*at)) ++at;
  return at;
}

// Whether `text` is a number as JSON writes one.
bool IsJsonNumber(const std::string& text) {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  const char* at = text.c_str();
  at += *at == '-';
  if (!digit(*at)) return false;
  at = *at == '0' ? at + 1 : Skip(at, digit);
  if (*at == '.') {
    if (!digit(*++at)) return false;
    at = Skip(at, digit);
  }
  if (*at == 'e' || *at == 'E') {
    ++at;
    at += *at == '+' || *at == '-';
    if (!digit(*at)) return false;
    at = Skip(at, digit);
  }
  return at == text.c_str() + text.size();
}

}  // namespace

DelimitedRows::DelimitedRows(ByteInput input, const DatasetSchema& schema,
                             const DatasetLimits& limits)
    : input_(std::move(input)),
      schema_(schema),
      limits_(limits),
      separator_(schema.format == FileFormat::kTsv ? '\t' : ',') {}

absl::StatusOr<bool> DelimitedRows::Next(SourceRow* row) {
  if (ended_) return false;
  if (input_.IsUtf16()) {
    ended_ = true;
    SetUtf16(row);
    return true;
  }
  while (ReadRecord(row)) {
    if (!input_.status().ok()) break;
    if (row->fault.reason.empty()) has_header_ ? ReadValues(row) : ReadHeader(row);
    // Without its header nothing in a file can be told.
    if (!has_header_) ended_ = true;
    if (ended_ || !row->fault.reason.empty() || !row->columns.empty()) return true;
  }
  if (!input_.status().ok()) return input_.status();
  return false;
}

bool DelimitedRows::ReadRecord(SourceRow* row) {
  // Empty lines belong to no row.
  while (input_.Peek() == '\n' || input_.Peek() == '\r') {
    if (input_.Take() == '\r') input_.TakeLineFeed();
    ++blank_lines_;
  }
  if (input_.Peek() == ByteInput::kEnd) return false;
  row->line = input_.line();
  row->byte_offset = input_.offset();
  row->fault = {};
  row->columns.clear();
  text_.clear();
  ends_.clear();
  enum class State { kFieldBegins, kBare, kQuoted, kBehindQuote, kSkipping };
  State state = State::kFieldBegins;
  int64_t quote_line = 0, quote_offset = 0;  // where the present quoted field begins
  const auto fail = [&](int64_t line, int64_t offset, const char* reason, const char* remedy) {
    if (row->fault.reason.empty()) SetFault(line, offset, "", reason, remedy, row);
    state = State::kSkipping;
  };
  while (true) {
    const int64_t line = input_.line(), offset = input_.offset();
    const int byte = input_.Take();
    if (state == State::kQuoted && byte == ByteInput::kEnd) {
      fail(quote_line, quote_offset, "opens a quote that is never closed",
           "close it, and double every quote within");
      return true;
    }
    if (state != State::kQuoted && IsLineEnd(byte)) {
      if (byte == '\r') input_.TakeLineFeed();
      if (row->fault.reason.empty()) EndField();
      return true;
    }
    // What does not fit is read to its end all the same: only there does the next row begin.
    if (offset - row->byte_offset >= limits_.max_line_bytes && row->fault.reason.empty()) {
      SetTooLong(row->line, row->byte_offset, limits_, row);
      if (state == State::kQuoted) {
        row->fault.remedy = absl::StrCat("cut it into several rows, or close the quote that line ",
                                         quote_line, " opens");
      }
    }
    if (byte == 0) {
      if (row->fault.reason.empty()) SetNulByte(line, offset, row);
      state = state == State::kQuoted ? state : State::kSkipping;
    }
    switch (state) {
      case State::kFieldBegins:
        if (byte == '"') {
          quote_line = line;
          quote_offset = offset;
          state = State::kQuoted;
          continue;
        }
        state = State::kBare;
        [[fallthrough]];
      case State::kBare:
        if (byte == separator_) {
          if (row->fault.reason.empty()) EndField();
          state = State::kFieldBegins;
          continue;
        }
        if (byte == '"') {
          fail(line, offset, "has a quote in a field that does not begin with one",
               "put the whole field in quotes and double the quote");
          continue;
        }
        break;
      case State::kQuoted:
        if (byte == '"') {
          state = State::kBehindQuote;
          continue;
        }
        break;
      case State::kBehindQuote:
        if (byte == separator_) {
          if (row->fault.reason.empty()) EndField();
          state = State::kFieldBegins;
          continue;
        }
        if (byte != '"') {
          fail(line, offset, "goes on behind a quote that closes its field",
               "double the quotes within the field");
          continue;
        }
        state = State::kQuoted;
        break;
      case State::kSkipping:
        continue;
    }
    if (row->fault.reason.empty()) text_ += static_cast<char>(byte);
  }
}

std::string_view DelimitedRows::Field(size_t i) const {
  const auto begin = static_cast<size_t>(i == 0 ? 0 : ends_[i - 1]);
  return std::string_view(text_).substr(begin, static_cast<size_t>(ends_[i]) - begin);
}

void DelimitedRows::ReadHeader(SourceRow* row) {
  std::unordered_map<std::string, size_t> seen;
  const auto refuse = [&](const std::string& field, std::string reason, std::string remedy) {
    SetFault(row->line, row->byte_offset, field, std::move(reason), std::move(remedy), row);
  };
  constexpr char kHeader[] = "begin the file with a line of column names, each once";
  for (size_t i = 0; i < ends_.size(); ++i) {
    const std::string name(Field(i));
    if (!IsUtf8(name)) {
      return refuse("", "is not UTF-8", "save the file as UTF-8 text");
    }
    if (IsBlank(name)) {
      return refuse("", absl::StrCat("names no column ", i + 1, " of ", ends_.size()), kHeader);
    }
    const auto [other, fresh] = seen.emplace(name, i);
    if (!fresh) {
      return refuse(Printable(name, kMaxNameBytes),
                    absl::StrCat("is the name of columns ", other->second + 1, " and ", i + 1),
                    kHeader);
    }
    names_.push_back(name);
  }
  row->names = names_;
  has_header_ = true;
  for (const ColumnValue& column : WantedColumns(schema_)) {
    const auto place = seen.find(std::string(column.name));
    places_.push_back(place == seen.end() ? -1 : static_cast<int>(place->second));
    const bool answer = schema_.HasAnswerColumn() && column.name == schema_.label_column;
    if (place != seen.end() || answer) continue;  // rows may all lack an answer
    ended_ = true;
    return refuse(Printable(column.name, kMaxNameBytes),
                  absl::StrCat("is no column of the file; ", ListedFields(names_)),
                  "name the right column in the upload, or mend the header");
  }
}

void DelimitedRows::ReadValues(SourceRow* row) {
  if (ends_.size() != names_.size()) {
    return SetFault(row->line, row->byte_offset, "",
                    absl::StrCat("has ", ends_.size(), ends_.size() == 1 ? " field" : " fields",
                                 "; the header names ", names_.size()),
                    "give every column a field, and put fields with separators in quotes", row);
  }
  for (size_t i = 0; i < ends_.size(); ++i) {
    if (IsUtf8(Field(i))) continue;
    return SetFault(row->line, row->byte_offset, Printable(names_[i], kMaxNameBytes),
                    "is not UTF-8", "save the file as UTF-8 text", row);
  }
  row->names = names_;
  row->columns = WantedColumns(schema_);
  for (size_t i = 0; i < row->columns.size(); ++i) {
    if (places_[i] < 0) continue;
    ColumnValue& column = row->columns[i];
    column.value = {ValueKind::kString, std::string(Field(static_cast<size_t>(places_[i])))};
    const bool number = schema_.form == ExampleForm::kNumber && schema_.HasAnswerColumn() &&
                        i + 1 == row->columns.size();
    if (number && IsJsonNumber(column.value.text) &&
        absl::SimpleAtod(column.value.text, &column.number) && std::isfinite(column.number)) {
      column.value.kind = ValueKind::kNumber;
    }
  }
}

}  // namespace thaw
