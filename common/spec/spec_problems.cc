#include "common/spec/spec_problems.h"

#include "absl/strings/str_cat.h"
#include "re2/re2.h"

namespace thaw {

void SpecProblems::Add(absl::string_view field, absl::string_view description) {
  violations_.push_back({std::string(field), std::string(description)});
}

void SpecProblems::ExpectWithin(absl::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  Add(field, absl::StrCat(value, " is out of range; give ", low, " to ", high));
}

void SpecProblems::ExpectWithin(absl::string_view field, double value, const Interval& interval) {
  const bool above = interval.without_low ? value > interval.low : value >= interval.low;
  const bool below = interval.without_high ? value < interval.high : value <= interval.high;
  if (above && below) return;
  Add(field, absl::StrCat(value, " is out of range; give a number ",
                          interval.without_low ? "above " : "from ", interval.low,
                          interval.without_high ? ", below " : ", at most ", interval.high));
}

void SpecProblems::ExpectName(absl::string_view field, absl::string_view value, int limit) {
  int characters = 0;
  bool control = false;
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xC0) != 0x80) ++characters;
    if (byte < 0x20 || byte == 0x7F) control = true;
  }
  if (characters > limit) {
    Add(field, absl::StrCat("has ", characters, " characters; give at most ", limit));
  }
  if (control) Add(field, "holds a control character; use printable ones");
}

void SpecProblems::ExpectDuration(absl::string_view field, const google::protobuf::Duration& time) {
  constexpr int64_t kMostSeconds = int64_t{30} * 24 * 3600;
  const bool valid = time.nanos() >= 0 && time.nanos() < 1'000'000'000;
  const bool too_long =
      time.seconds() > kMostSeconds || (time.seconds() == kMostSeconds && time.nanos() > 0);
  if (!valid || time.seconds() < 1 || too_long) {
    Add(field, absl::StrCat(time.seconds(), " s ", time.nanos(),
                            " ns is out of range; give 1 s to 30 days"));
  }
}

absl::Status SpecProblems::ToStatus() const {
  return violations_.empty() ? absl::OkStatus() : InvalidFields(violations_);
}

void ExpectPrecision(absl::string_view field, v1::Precision precision, SpecProblems* problems) {
  if (v1::Precision_IsValid(precision)) return;
  problems->Add(field,
                absl::StrCat(static_cast<int>(precision), " is not known; give FP32 or BF16"));
}

void ValidatePattern(absl::string_view field, const std::string& pattern, SpecProblems* problems) {
  constexpr int kMaxPatternBytes = 1024;
  if (pattern.empty()) {
    problems->Add(field, "is empty and would match nothing; give an RE2 expression");
    return;
  }
  if (pattern.size() > kMaxPatternBytes) {
    problems->Add(field,
                  absl::StrCat("has ", pattern.size(), " bytes; give at most ", kMaxPatternBytes));
    return;
  }
  RE2::Options options;
  options.set_log_errors(false);
  options.set_max_mem(1 << 20);
  const RE2 compiled(pattern, options);
  if (!compiled.ok()) {
    problems->Add(field,
                  absl::StrCat("\"", pattern, "\" is not an RE2 expression: ", compiled.error()));
  }
}

}  // namespace thaw
