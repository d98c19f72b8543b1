#include "client/cli/answers.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/format.h"
#include "common/base/json.h"
#include "common/base/status.h"

namespace thaw {
namespace {

using Json = nlohmann::json;

constexpr int kTextColumns = 100;

// The value of a member, or nothing of the wanted type.
const Json* Find(const Json& object, const char* name, bool (Json::*is)() const noexcept) {
  const auto it = object.find(name);
  return it != object.end() && ((*it).*is)() ? &*it : nullptr;
}

std::string Share(const Json* scores, const std::string& label) {
  const Json* score = scores == nullptr ? nullptr : Find(*scores, label.c_str(), &Json::is_number);
  return score == nullptr ? "?" : FormatShare(score->get<double>());
}

std::string Labels(const Json& labels, const Json* scores) {
  std::vector<std::string> names, shares;
  for (const Json& label : labels) {
    if (!label.is_string()) continue;
    names.push_back(Printable(label.get<std::string>()));
    shares.push_back(Share(scores, label.get<std::string>()));
  }
  if (names.empty()) return "no label";
  return absl::StrCat(absl::StrJoin(names, ", "), "  ", absl::StrJoin(shares, ", "));
}

}  // namespace

std::string AskedText(const v1::Prediction& prediction, int64_t row) {
  std::string text;
  if (row >= 0 && row < prediction.texts().values_size()) {
    text = prediction.texts().values(static_cast<int>(row));
  } else if (row >= 0 && row < prediction.examples().values_size()) {
    const v1::InlineExample& example = prediction.examples().values(static_cast<int>(row));
    text = absl::StrCat(example.prompt(), example.completion());
    if (example.messages_size() > 0) text = example.messages().rbegin()->content();
  }
  return Clip(Printable(text), kTextColumns);
}

absl::StatusOr<std::string> ReadableAnswer(absl::string_view line,
                                           const v1::Prediction& prediction) {
  THAW_ASSIGN_OR_RETURN(const Json answer, ParseJson(line));
  if (!answer.is_object()) return absl::DataLossError(absl::StrCat("no answer: ", line));
  const Json* number = Find(answer, "row", &Json::is_number_integer);
  const std::string asked = AskedText(prediction, number == nullptr ? -1 : number->get<int64_t>());
  const auto with_text = [&](const std::string& said) {
    return asked.empty() ? said : absl::StrCat(said, "  ", asked);
  };
  const Json* label = Find(answer, "label", &Json::is_string);
  const Json* score = Find(answer, "score", &Json::is_number);
  if (label != nullptr && score != nullptr) {
    return with_text(absl::StrCat(Printable(label->get<std::string>()), "  ",
                                  FormatShare(score->get<double>())));
  }
  if (const Json* labels = Find(answer, "labels", &Json::is_array)) {
    return with_text(Labels(*labels, Find(answer, "scores", &Json::is_object)));
  }
  if (const Json* value = Find(answer, "value", &Json::is_number)) {
    return with_text(FormatNumber(value->get<double>()));
  }
  const Json* tokens = Find(answer, "tokens", &Json::is_number_integer);
  if (const Json* probability = Find(answer, "log_probability", &Json::is_number)) {
    const Json* perplexity = Find(answer, "perplexity", &Json::is_number);
    return with_text(
        absl::StrCat(FormatNumber(probability->get<double>()), "  perplexity ",
                     perplexity == nullptr ? "none" : FormatNumber(perplexity->get<double>()), ", ",
                     tokens == nullptr ? 0 : tokens->get<int64_t>(), " tokens"));
  }
  if (const Json* text = Find(answer, "text", &Json::is_string)) return text->get<std::string>();
  return absl::DataLossError(absl::StrCat("an answer without label, value or text: ", line));
}

absl::StatusOr<std::vector<std::vector<float>>> ReadEmbeddings(absl::string_view bytes) {
  const absl::Status bad =
      absl::DataLossError("embeddings.safetensors holds no fp32 tensor \"embeddings\" of rows");
  uint64_t length = 0;
  if (bytes.size() < sizeof length) return bad;
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > bytes.size() - sizeof length) return bad;
  const absl::StatusOr<Json> header = ParseJson(bytes.substr(sizeof length, length));
  if (!header.ok() || !header->is_object()) return bad;
  const Json* tensor = Find(*header, "embeddings", &Json::is_object);
  const Json* type = tensor == nullptr ? nullptr : Find(*tensor, "dtype", &Json::is_string);
  const Json* shape = tensor == nullptr ? nullptr : Find(*tensor, "shape", &Json::is_array);
  if (type == nullptr || *type != "F32" || shape == nullptr || shape->size() != 2 ||
      !(*shape)[0].is_number_unsigned() || !(*shape)[1].is_number_unsigned()) {
    return bad;
  }
  const absl::string_view data = bytes.substr(sizeof length + length);
  const auto rows = (*shape)[0].get<uint64_t>();
  const auto width = (*shape)[1].get<uint64_t>();
  if (width == 0 || rows > data.size() || width > data.size() ||
      data.size() != rows * width * sizeof(float)) {
    return bad;
  }
  std::vector<std::vector<float>> embeddings(rows, std::vector<float>(width));
  for (uint64_t row = 0; row < rows; ++row) {
    std::memcpy(embeddings[row].data(), data.data() + row * width * sizeof(float),
                width * sizeof(float));
  }
  return embeddings;
}

}  // namespace thaw
