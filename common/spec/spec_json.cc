#include "common/spec/spec_json.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/edit_distance.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/util/json_util.h"

namespace thaw {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

std::string UnknownField(const Descriptor& message, const std::string& name) {
  std::vector<std::string> names;
  for (int i = 0; i < message.field_count(); ++i) names.push_back(message.field(i)->name());
  const std::string nearest = NearestName(name, names);
  return absl::StrCat("is not a field",
                      nearest.empty() ? "" : absl::StrCat("; did you mean ", nearest),
                      nearest.empty() ? "; fields: " : "? Fields: ", absl::StrJoin(names, ", "));
}

// Says of a value of an enum by name, or of each in a list, which there are if it is none of them.
void CheckNames(const std::string& path, const nlohmann::json& json,
                const google::protobuf::EnumDescriptor& type,
                std::vector<FieldViolation>* violations) {
  if (json.is_array()) {
    for (const auto& value : json) CheckNames(path, value, type, violations);
    return;
  }
  if (!json.is_string()) return;  // numbers are protobuf's to judge
  std::vector<std::string> names;
  for (int i = 0; i < type.value_count(); ++i) {
    if (type.value(i)->name() == json.get<std::string>()) return;
    if (type.value(i)->number() != 0) names.push_back(type.value(i)->name());
  }
  violations->push_back({path, absl::StrCat("\"", json.get<std::string>(), "\" is none of ",
                                            absl::StrJoin(names, ", "))});
}

void FindUnknownFields(const std::string& path, const nlohmann::json& json,
                       const Descriptor& message, std::vector<FieldViolation>* violations) {
  if (!json.is_object()) return;  // wrong types are protobuf's to report
  for (const auto& [key, value] : json.items()) {
    const FieldDescriptor* field = message.FindFieldByName(key);
    if (field == nullptr) field = message.FindFieldByCamelcaseName(key);
    const std::string child = path.empty() ? key : absl::StrCat(path, ".", key);
    if (field == nullptr) {
      violations->push_back({child, UnknownField(message, key)});
      continue;
    }
    if (field->enum_type() != nullptr) CheckNames(child, value, *field->enum_type(), violations);
    const Descriptor* type = field->message_type();
    if (type == nullptr || field->is_map() ||
        type->file()->package() != message.file()->package()) {
      continue;
    }
    if (!field->is_repeated()) {
      FindUnknownFields(child, value, *type, violations);
    } else if (value.is_array()) {
      for (size_t i = 0; i < value.size(); ++i) {
        FindUnknownFields(absl::StrCat(child, "[", i, "]"), value[i], *type, violations);
      }
    }
  }
}

}  // namespace

absl::StatusOr<v1::JobSpec> ParseSpecJson(absl::string_view text) {
  THAW_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text));
  if (!json.is_object()) {
    return absl::InvalidArgumentError("a job spec is a JSON object, such as {\"base_model\": …}");
  }
  std::vector<FieldViolation> violations;
  FindUnknownFields("", json, *v1::JobSpec::descriptor(), &violations);
  if (!violations.empty()) return InvalidFields(violations);
  v1::JobSpec spec;
  const auto status = google::protobuf::util::JsonStringToMessage(std::string(text), &spec);
  if (!status.ok()) return absl::InvalidArgumentError(std::string(status.message()));
  return spec;
}

std::string SpecToJson(const v1::JobSpec& spec) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string text;
  // Fails only for Any fields of unknown type, and a spec has none.
  (void)google::protobuf::util::MessageToJsonString(spec, &text, options);
  return text;
}

}  // namespace thaw
