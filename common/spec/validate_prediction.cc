#include <set>

#include "absl/strings/str_cat.h"
#include "common/base/clean_text.h"
#include "common/spec/spec.h"
#include "common/spec/spec_problems.h"

namespace thaw {
namespace {

constexpr int kMostInline = 1000;
constexpr int64_t kMostInlineBytes = int64_t{1} << 20;
constexpr int kMostAveraged = 7;
constexpr int kMostStops = 16;
constexpr size_t kLongestStop = 256;

// Of texts or examples given in the request.
void ValidateBounds(absl::string_view field, int count, int64_t bytes, absl::string_view what,
                    SpecProblems* problems) {
  if (count < 1 || count > kMostInline) {
    problems->Add(field, absl::StrCat(count, " ", what, "; give 1 to ", kMostInline));
  }
  if (bytes > kMostInlineBytes) {
    problems->Add(field, absl::StrCat(bytes, " bytes in all; give at most 1 MiB, or import the ",
                                      what, " as a dataset"));
  }
}

void ValidateConversation(absl::string_view field, const v1::InlineExample& example,
                          SpecProblems* problems) {
  for (int i = 0; i < example.messages_size(); ++i) {
    const std::string& role = example.messages(i).role();
    const std::string at = absl::StrCat(field, ".messages[", i, "].role");
    if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
      problems->Add(at, absl::StrCat("\"", CleanText(role, 40),
                                     "\" is not known; give system, user, assistant or tool"));
    } else if (role == "system" && i > 0) {
      problems->Add(at, "is system after the first message; begin with it");
    } else if (role == "assistant" && i + 1 == example.messages_size()) {
      problems->Add(at, "is assistant, whose turn is asked for; end with another role");
    }
  }
}

void ValidateExample(absl::string_view field, const v1::InlineExample& example, bool scores,
                     SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  if (example.messages_size() > 0) {
    if (scores) {
      problems->Add(at("messages"), "cannot be scored; give prompt and completion");
      return;
    }
    if (!example.prompt().empty()) {
      problems->Add(at("prompt"), "is given beside messages; give one of them");
    }
    ValidateConversation(field, example, problems);
  } else if (example.prompt().empty()) {
    problems->Add(at("prompt"), scores ? "is empty; give what the completion follows"
                                       : "is empty; give a prompt or messages");
  }
  if (scores && example.completion().empty()) {
    problems->Add(at("completion"), "is empty; give what is to be scored");
  } else if (!scores && !example.completion().empty()) {
    problems->Add(at("completion"), "is given, but generate makes its own; leave it empty");
  }
}

void ValidateExamples(absl::string_view field, const v1::Prediction& prediction,
                      SpecProblems* problems) {
  const bool scores = prediction.has_score();
  if (!scores && !prediction.has_generate()) {
    problems->Add(field, "are for score and generate; give texts");
    return;
  }
  const auto& values = prediction.examples().values();
  const std::string all = absl::StrCat(field, ".values");
  ValidateBounds(all, values.size(), static_cast<int64_t>(prediction.examples().ByteSizeLong()),
                 "examples", problems);
  for (int i = 0; i < values.size() && i < kMostInline; ++i) {
    ValidateExample(absl::StrCat(all, "[", i, "]"), values[i], scores, problems);
  }
}

void ValidateAverage(absl::string_view field, const v1::Prediction& prediction,
                     SpecProblems* problems) {
  const auto& models = prediction.classify().average_with();
  if (models.size() > kMostAveraged) {
    problems->Add(field, absl::StrCat(models.size(), " models; give at most ", kMostAveraged));
  }
  std::set<std::string> seen = {prediction.model()};
  for (int i = 0; i < models.size() && i < kMostAveraged; ++i) {
    const std::string at = absl::StrCat(field, "[", i, "]");
    if (models[i].empty()) {
      problems->Add(at, "is empty; give the id of a model or a result");
    } else if (!seen.insert(models[i]).second) {
      problems->Add(at, absl::StrCat("\"", models[i], "\" is given twice; give each model once"));
    }
  }
}

void ValidateScore(absl::string_view field, const v1::Prediction& prediction,
                   SpecProblems* problems) {
  const v1::Score& score = prediction.score();
  if (!score.text_column().empty() &&
      !(score.prompt_column().empty() && score.completion_column().empty())) {
    problems->Add(absl::StrCat(field, ".text_column"),
                  absl::StrCat("\"", score.text_column(),
                               "\" is given beside prompt_column or completion_column; give one or "
                               "the other"));
  }
}

void ValidateSampling(absl::string_view field, const v1::Generate& generate,
                      SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  problems->ExpectWithin(at("temperature"), generate.temperature(), {0, 10});
  problems->ExpectWithin(at("top_k"), int64_t{generate.top_k()}, 0, 1'000'000);
  if (generate.has_top_p()) problems->ExpectWithin(at("top_p"), generate.top_p(), {0, 1, true});
  problems->ExpectWithin(at("min_p"), generate.min_p(), {0, 1});
  if (generate.has_repetition_penalty()) {
    problems->ExpectWithin(at("repetition_penalty"), generate.repetition_penalty(), {0, 10, true});
  }
  if (generate.temperature() != 0) return;
  const bool narrows_p = generate.has_top_p() && generate.top_p() < 1;
  for (const auto& [given, name] :
       {std::pair(generate.top_k() > 0, "top_k"), std::pair(narrows_p, "top_p"),
        std::pair(generate.min_p() > 0, "min_p")}) {
    if (given) {
      problems->Add(at(name),
                    "is given with temperature 0, which takes the most probable token; set "
                    "temperature, such as 1, or leave it out");
    }
  }
}

void ValidateGenerate(absl::string_view field, const v1::Generate& generate,
                      SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  if (!generate.prompt_column().empty() && !generate.messages_column().empty()) {
    problems->Add(at("messages_column"), absl::StrCat("\"", generate.messages_column(),
                                                      "\" is given beside prompt_column; give one "
                                                      "of them"));
  }
  if (generate.max_new_tokens() != 0) {
    problems->ExpectWithin(at("max_new_tokens"), int64_t{generate.max_new_tokens()}, 1, 32'768);
  }
  ValidateSampling(field, generate, problems);
  if (generate.stop_size() > kMostStops) {
    problems->Add(at("stop"),
                  absl::StrCat(generate.stop_size(), " strings; give at most ", kMostStops));
  }
  for (int i = 0; i < generate.stop_size() && i < kMostStops; ++i) {
    if (generate.stop(i).empty() || generate.stop(i).size() > kLongestStop) {
      problems->Add(
          absl::StrCat(at("stop"), "[", i, "]"),
          absl::StrCat("has ", generate.stop(i).size(), " bytes; give 1 to ", kLongestStop));
    }
  }
}

void ValidateInput(absl::string_view field, const v1::Prediction& prediction,
                   SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  switch (prediction.input_case()) {
    case v1::Prediction::kDataset:
      if (prediction.dataset().empty()) {
        problems->Add(at("dataset"), "is empty; give the id of a dataset");
      }
      break;
    case v1::Prediction::kTexts: {
      const auto& values = prediction.texts().values();
      int64_t bytes = 0;
      for (const std::string& value : values) bytes += static_cast<int64_t>(value.size());
      ValidateBounds(at("texts.values"), values.size(), bytes, "texts", problems);
      break;
    }
    case v1::Prediction::kExamples:
      ValidateExamples(at("examples"), prediction, problems);
      break;
    case v1::Prediction::INPUT_NOT_SET:
      problems->Add(at("input"), "is not set; give dataset, texts or examples");
      break;
  }
}

}  // namespace

void ValidatePrediction(absl::string_view field, const v1::Prediction& prediction,
                        SpecProblems* problems) {
  const auto at = [&](absl::string_view name) { return absl::StrCat(field, ".", name); };
  if (prediction.model().empty()) {
    problems->Add(at("model"), "is empty; give the id of a model, a result or a training");
  }
  ValidateInput(field, prediction, problems);
  switch (prediction.task_case()) {
    case v1::Prediction::kClassify:
      ValidateAverage(at("classify.average_with"), prediction, problems);
      break;
    case v1::Prediction::kEmbed:
      if (!v1::Embed::Pooling_IsValid(prediction.embed().pooling())) {
        problems->Add(at("embed.pooling"),
                      absl::StrCat(static_cast<int>(prediction.embed().pooling()),
                                   " is not known; give MEAN, CLS, LAST or MAX"));
      }
      break;
    case v1::Prediction::kScore:
      ValidateScore(at("score"), prediction, problems);
      break;
    case v1::Prediction::kGenerate:
      ValidateGenerate(at("generate"), prediction.generate(), problems);
      break;
    case v1::Prediction::TASK_NOT_SET:
      problems->Add(at("task"), "is not set; give classify, embed, score or generate");
      break;
  }
  if (!v1::Prediction::Weights_IsValid(prediction.weights())) {
    problems->Add(at("weights"), absl::StrCat(static_cast<int>(prediction.weights()),
                                              " is not known; give LAST or BEST"));
  } else if (prediction.weights() != v1::Prediction::WEIGHTS_UNSPECIFIED &&
             !IsJobId(prediction.model())) {
    problems->Add(at("weights"), absl::StrCat("are given, but \"", prediction.model(),
                                              "\" is no job and has only one set; leave them out"));
  }
  ExpectPrecision(at("precision"), prediction.precision(), problems);
  if (prediction.max_length() != 0) {
    problems->ExpectWithin(at("max_length"), int64_t{prediction.max_length()}, 2, 1 << 20);
  }
}

}  // namespace thaw
