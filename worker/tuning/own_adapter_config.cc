#include "worker/tuning/own_adapter_config.h"

#include "absl/strings/str_cat.h"
#include "worker/model/config_fields.h"
#include "worker/tuning/peft_config.h"

namespace thaw {
namespace {

constexpr int64_t kOwnFormatVersion = 1;
constexpr int64_t kMostReduction = 1024;
constexpr double kMostScale = 1000;

}  // namespace

absl::StatusOr<v1::AddedPart> ParseOwnAdapterConfig(const nlohmann::json& source) {
  ConfigFields fields(source, "", kPeftConfigFile, kOwnFormatField);
  v1::AddedPart part;
  v1::BottleneckAdapter* adapter = part.mutable_bottleneck();
  fields.Only(kOwnFormatField, kOwnFormatVersion);
  if (const std::string kind = fields.Text("kind", ""); kind != "bottleneck") {
    fields.Fail("kind", absl::StrCat("\"", kind, "\" is not supported, only bottleneck"));
  }
  const std::string place = fields.Text("place", "");
  v1::BottleneckAdapter::Place value = v1::BottleneckAdapter::PLACE_UNSPECIFIED;
  if (!v1::BottleneckAdapter::Place_Parse(place, &value) ||
      value == v1::BottleneckAdapter::PLACE_UNSPECIFIED) {
    fields.Fail("place", absl::StrCat("\"", place, "\" is not HOULSBY, PFEIFFER or PARALLEL"));
  }
  adapter->set_place(value);
  adapter->set_reduction(static_cast<int32_t>(fields.Size("reduction", 1, {}, kMostReduction)));
  adapter->set_scale(fields.Real("scale", 0, kMostScale + 1, 1));
  if (const nlohmann::json* saved = fields.Find("modules_to_save"); saved != nullptr) {
    for (const nlohmann::json& name : *saved) {
      if (name.is_string()) {
        adapter->add_modules_to_save(name.get<std::string>());
      } else {
        fields.Fail("modules_to_save",
                    absl::StrCat("expected a list of module names, found ", ShownJson(*saved)));
      }
    }
  }
  fields.Ignore({"base_model_name_or_path"});
  fields.RefuseUnread();
  if (!fields.status().ok()) return fields.status();
  return part;
}

std::string OwnAdapterConfigJson(const v1::BottleneckAdapter& adapter,
                                 const std::string& base_model,
                                 const std::vector<std::string>& saved) {
  const nlohmann::json config = {
      {"base_model_name_or_path", base_model},
      {"kind", "bottleneck"},
      {"modules_to_save", saved},
      {"place", v1::BottleneckAdapter::Place_Name(adapter.place())},
      {"reduction", adapter.reduction()},
      {"scale", adapter.scale()},
      {kOwnFormatField, kOwnFormatVersion},
  };
  return config.dump(2) + "\n";
}

}  // namespace thaw
