// One field of config.json after the other, by the file of a family.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "worker/kernels/kernels.h"

namespace thaw {

// Remembers the first field that is wrong, so that a family reads all of its own and looks at
// status() once; and which fields it was asked for, so that those nobody honours can be refused. A
// field that is null counts as missing, but for token ids.
class ConfigFields {
 public:
  // `scope` goes before the names of fields in errors: "rope_parameters." of an object inside.
  // `file` is what errors call the file, `type` its field that says what it describes.
  explicit ConfigFields(const nlohmann::json& source, std::string scope = "",
                        std::string file = "config.json", std::string type = "model_type")
      : source_(source), scope_(std::move(scope)), file_(std::move(file)), type_(std::move(type)) {}

  const absl::Status& status() const { return status_; }
  void Fail(absl::string_view field, absl::string_view description);
  // Takes over the first error of the fields of an object inside this one.
  void Adopt(const ConfigFields& inner);

  // The field is written down, be it null.
  bool Has(const char* field) const { return source_.contains(field); }
  // nullptr where the field is missing or null.
  const nlohmann::json* Find(const char* field);
  // Whole numbers from `smallest` to `largest`; without `otherwise` the field must be there.
  int64_t Size(const char* field, int64_t smallest, std::optional<int64_t> otherwise = {},
               int64_t largest = int64_t{1} << 26);
  // A token's id, or -1 for null: there is none, as transformers has it. `otherwise` is for a field
  // that is missing.
  int64_t TokenId(const char* field, int64_t otherwise);
  double Real(const char* field, double low, double high, double otherwise);  // [low, high)
  bool Flag(const char* field, bool otherwise);
  std::string Text(const char* field, const char* otherwise);
  // Of a field with two spellings (transformers' attribute_map) the one that the file uses; refuses
  // two that disagree.
  const char* Spelling(const char* field, const char* alias);
  // Refuses a `part` of `whole` that does not divide it.
  void Divides(const char* part, int64_t part_value, const char* whole, int64_t whole_value);
  // By the names that transformers gives them: gelu, gelu_new, relu, silu, …
  ActivationKind Activation(const char* field, const char* otherwise);

  // Refuses every value but this one (or a missing field): what we would have to compute
  // differently for.
  void Only(const char* field, const nlohmann::json& supported);
  // Fields that change nothing of what this family computes.
  void Ignore(std::initializer_list<const char*> fields);
  // Refuses, by name, whatever was neither asked for nor ignored nor is known to be harmless in
  // every family; null, false and empty values are harmless.
  void RefuseUnread();

 private:
  const nlohmann::json& source_;
  const std::string scope_, file_, type_;
  std::set<std::string> read_;
  absl::Status status_;
};

// A JSON value for a message, cut to a readable length.
std::string ShownJson(const nlohmann::json& value);

}  // namespace thaw
