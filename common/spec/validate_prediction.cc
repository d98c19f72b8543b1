#include "absl/strings/str_cat.h"
#include "common/spec/spec_problems.h"

namespace thaw {

void ValidatePrediction(absl::string_view field, const v1::Prediction& prediction,
                        SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  if (prediction.model().empty()) {
    problems->Add(at("model"), "is empty; give the id of a result, or of a model with labels");
  }
  switch (prediction.input_case()) {
    case v1::Prediction::kDataset:
      if (prediction.dataset().empty()) {
        problems->Add(at("dataset"), "is empty; give the id of a dataset");
      }
      break;
    case v1::Prediction::kTexts: {
      const auto& values = prediction.texts().values();
      if (values.empty() || values.size() > 1000) {
        problems->Add(at("texts.values"), absl::StrCat(values.size(), " texts; give 1 to 1000"));
      }
      int64_t bytes = 0;
      for (const std::string& value : values) bytes += static_cast<int64_t>(value.size());
      if (bytes > int64_t{1} << 20) {
        problems->Add(at("texts.values"), absl::StrCat(bytes,
                                                       " bytes in all; give at most 1 MiB, or "
                                                       "import the texts as a dataset"));
      }
      break;
    }
    case v1::Prediction::kExamples:
      problems->Add(at("examples"), "are not for classify; give dataset or texts");
      break;
    case v1::Prediction::INPUT_NOT_SET:
      problems->Add(at("input"), "is not set; give dataset or texts");
      break;
  }
  if (!prediction.has_classify()) {
    problems->Add(at("task"), "is not classify, which is all that runs yet; give classify");
  }
  if (prediction.max_length() != 0) {
    problems->ExpectWithin(at("max_length"), int64_t{prediction.max_length()}, 2, 1 << 20);
  }
}

}  // namespace thaw
