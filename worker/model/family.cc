#include "worker/model/family.h"

#include "absl/strings/str_join.h"

namespace thaw {
namespace {

const Family* const kFamilies[] = {
    &kAwdLstmFamily, &kBertFamily,  &kBloomFamily, &kDistilBertFamily, &kGpt2Family, &kLlamaFamily,
    &kMistralFamily, &kQwen2Family, &kQwen3Family, &kRobertaFamily,    &kT5Family,
};

}  // namespace

const Family* FindFamily(absl::string_view model_type) {
  for (const Family* family : kFamilies) {
    if (model_type == family->model_type) return family;
  }
  return nullptr;
}

std::string SupportedFamilies() {
  return absl::StrJoin(kFamilies, ", ", [](std::string* out, const Family* family) {
    out->append(family->model_type);
  });
}

}  // namespace thaw
