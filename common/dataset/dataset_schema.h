// What an example looks like in a file, and what one reads out of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace thaw {

enum class ExampleForm {
  kLabel,         // a text, or a pair of them, with one class
  kLabels,        // a text, or a pair of them, with any number of classes
  kNumber,        // a text with a finite number
  kText,          // a text alone
  kAnswer,        // a prompt with its completion, a source with its target
  kConversation,  // turns of a conversation
};

// How a file holds its rows.
enum class FileFormat {
  kJsonLines,  // an object a line
  kCsv,        // comma-separated values (RFC 4180) under a line of column names
  kTsv,        // the same separated by tabs
  kText,       // rows parted by empty lines, of the one column "text"
};

// Names of the columns. Other fields of a row are ignored.
struct DatasetSchema {
  std::string text_column = "text";   // the text, prompt, source or conversation
  std::string text_pair_column = {};  // empty: examples are single texts
  // The label, array of labels, number, completion or target. Empty: examples carry none (input of
  // a prediction). kText has none in any case; a kConversation holds its answers itself, and empty
  // means that it needs none.
  std::string label_column = "label";
  ExampleForm form = ExampleForm::kLabel;
  FileFormat format = FileFormat::kJsonLines;

  bool HasAnswerColumn() const {
    return !label_column.empty() && form != ExampleForm::kText &&
           form != ExampleForm::kConversation;
  }
};

// Bounds on input. They exist so that no file can make a reader use unbounded memory or stack.
struct DatasetLimits {
  int64_t max_line_bytes = 1 << 20;  // a longer row is skipped and reported, never held in memory
  int max_depth = 32;                // nested arrays and objects in fields that are ignored
  int max_labels = 10'000;           // more different labels mean that the column is no class
  int max_label_bytes = 256;
  int64_t max_tracked_duplicates = 1
                                   << 22;  // examples among which duplicates are looked for: 64 MiB
};

// A file's labels are all strings or all integers, never both.
enum class LabelKind { kNone, kString, kInteger };

// Of a conversation.
struct Turn {
  std::string role;  // "system" (only first), "user", "assistant" or "tool"
  std::string content;
};

// Each form fills what it has; the rest is empty.
struct Example {
  std::string text = {};       // or the prompt or source
  std::string text_pair = {};  // empty without a pair column
  std::string label =
      {};  // the class name; integers as decimal digits; empty without a label column
  LabelKind label_kind = LabelKind::kNone;
  std::vector<std::string> labels = {};  // kLabels: all different, in the row's order
  double number = 0;                     // kNumber
  std::string answer = {};               // kAnswer: the completion or target
  std::vector<Turn> turns = {};          // kConversation: at least one that is not the assistant's
  int64_t line = 0;                      // 1-based, at which the row begins
};

// One thing wrong with a file. A row may have several.
struct DatasetIssue {
  int64_t line = 0;  // 1-based
  // In the file: the byte at which the format is broken, or the row's beginning.
  int64_t byte_offset = 0;
  std::string
      field;  // the path from the row on, "label" or "messages[1].content"; empty: all of it
  std::string reason;         // one line of at most 300 bytes
  std::string remedy = {};    // what to do about it, likewise
  bool lacks_answer = false;  // the label, number or answer is not there at all
};

struct LabelCount {
  std::string label;
  int64_t examples = 0;
};

struct DatasetSummary {
  int64_t bytes = 0;
  int64_t lines = 0;        // of the file, blank ones and a header included
  int64_t blank_lines = 0;  // tolerated: skipped
  int64_t examples = 0;     // good rows
  int64_t bad_lines = 0;    // bad rows
  int64_t issues = 0;
  int64_t unanswered_lines = 0;    // bad rows whose label or answer is not there at all
  int64_t duplicates = 0;          // examples whose texts and answer occurred before
  bool duplicates_exact = true;    // false: the file has more examples than were looked at
  bool byte_order_mark = false;    // a UTF-8 mark at the beginning: tolerated
  int64_t longest_text_bytes = 0;  // all texts of an example together
  int64_t text_bytes = 0;          // of all examples, answers in words included
  // Characters of an example's texts together: half, nine tenths, all but one in a hundred of the
  // examples have at most so many (LengthHistogram says how exactly), and none more.
  int64_t characters_p50 = 0, characters_p90 = 0, characters_p99 = 0, characters_max = 0;
  LabelKind label_kind = LabelKind::kNone;
  std::vector<LabelCount> labels;  // in class order: strings by byte value, integers by value
  int64_t without_labels = 0;      // kLabels: examples with none
  double least_number = 0;         // kNumber: of all examples; 0 without any
  double greatest_number = 0;
};

}  // namespace thaw
