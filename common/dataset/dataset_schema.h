// What an example of text classification looks like in a JSON Lines file, and what one reads out of
// a line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace thaw {

// Names of the columns. Other fields of a line are ignored.
struct DatasetSchema {
  std::string text_column = "text";
  std::string text_pair_column;        // empty: examples are single texts
  std::string label_column = "label";  // empty: examples carry no label (input of a prediction)
};

// Bounds on input. They exist so that no file can make a reader use unbounded memory or stack.
struct DatasetLimits {
  int64_t max_line_bytes = 1 << 20;  // a longer line is skipped and reported, never held in memory
  int max_depth = 32;                // nested arrays and objects in fields that are ignored
  int max_labels = 10'000;           // more different labels mean that the column is no class
  int max_label_bytes = 256;
  int64_t max_tracked_duplicates = 1
                                   << 22;  // examples among which duplicates are looked for: 64 MiB
};

// A file's labels are all strings or all integers, never both.
enum class LabelKind { kNone, kString, kInteger };

struct Example {
  std::string text;
  std::string text_pair;  // empty without a pair column
  std::string label;  // the class name; integers as decimal digits; empty without a label column
  LabelKind label_kind = LabelKind::kNone;
  int64_t line = 0;  // 1-based
};

// One thing wrong with a file. A line may have several.
struct DatasetIssue {
  int64_t line = 0;  // 1-based
  // In the file: the byte at which reading as JSON stopped, or the line's beginning.
  int64_t byte_offset = 0;
  std::string field;   // the column, or empty when the line as a whole is at fault
  std::string reason;  // one line of at most 300 bytes, with the remedy where there is one
};

struct LabelCount {
  std::string label;
  int64_t examples = 0;
};

struct DatasetSummary {
  int64_t bytes = 0;
  int64_t lines = 0;        // blank and bad ones included
  int64_t blank_lines = 0;  // tolerated: skipped
  int64_t examples = 0;     // good lines
  int64_t bad_lines = 0;
  int64_t issues = 0;
  int64_t duplicates = 0;          // examples whose texts and label occurred before
  bool duplicates_exact = true;    // false: the file has more examples than were looked at
  bool byte_order_mark = false;    // a UTF-8 mark at the beginning: tolerated
  int64_t longest_text_bytes = 0;  // text and pair together
  int64_t text_bytes = 0;          // of all examples, texts and pairs
  LabelKind label_kind = LabelKind::kNone;
  std::vector<LabelCount> labels;  // in class order: strings by byte value, integers by value
};

}  // namespace thaw
