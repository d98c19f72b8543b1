#include "server/artifacts/model_summary.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <limits>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/files.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/base/unique_fd.h"

namespace thaw {
namespace {

constexpr int64_t kMaxHeaderBytes = 16 << 20;
constexpr size_t kMaxModelLabels = 10'000;

absl::Status BadModel(absl::string_view file, absl::string_view what) {
  return InvalidField("files", absl::StrCat("hold a ", file, " that ", what));
}

// The first of the names under which the families keep the number.
absl::StatusOr<int32_t> ConfigNumber(const nlohmann::json& config,
                                     std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const auto it = config.find(name);
    if (it == config.end()) continue;
    if (!it->is_number_integer() || it->get<int64_t>() < 1 || it->get<int64_t>() > 1'000'000'000) {
      return BadModel("config.json", absl::StrCat("has ", it->dump().substr(0, 40), " as ", name));
    }
    return it->get<int32_t>();
  }
  return BadModel("config.json", absl::StrCat("lacks ", *names.begin()));
}

absl::Status ReadLabels(const nlohmann::json& config, v1::ModelSummary* summary) {
  const auto it = config.find("id2label");
  const bool has_head = config.contains("architectures") &&
                        absl::StrContains(config["architectures"].dump(), "Classification");
  if (it == config.end() || !has_head) return absl::OkStatus();
  std::map<int64_t, std::string> labels;
  if (!it->is_object() || it->size() > kMaxModelLabels) {
    return BadModel("config.json", "has an id2label that is no object of at most 10000 labels");
  }
  for (const auto& [key, label] : it->items()) {
    int64_t index = 0;
    if (!absl::SimpleAtoi(key, &index) || !label.is_string() ||
        !labels.emplace(index, label.get<std::string>()).second) {
      return BadModel("config.json", "has an id2label that does not map numbers to names");
    }
  }
  for (const auto& [index, label] : labels) {
    if (index != summary->labels_size()) {
      return BadModel("config.json", "has an id2label whose numbers are not 0, 1, 2 and so on");
    }
    summary->add_labels(label);
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> CountParameters(const std::string& directory, const std::string& name) {
  const UniqueFd fd(
      open(absl::StrCat(directory, "/", name).c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  unsigned char prefix[8];
  if (!fd.valid() || pread(fd.get(), prefix, sizeof prefix, 0) != sizeof prefix) {
    return BadModel(name, "is shorter than the header of a safetensors file");
  }
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | prefix[i];
  if (length > static_cast<uint64_t>(kMaxHeaderBytes)) {
    return BadModel(name, absl::StrCat("has a header of ", length, " bytes; at most ",
                                       kMaxHeaderBytes, " are taken: it is no safetensors file"));
  }
  std::string text(length, '\0');
  if (pread(fd.get(), text.data(), length, 8) != static_cast<ssize_t>(length)) {
    return BadModel(name, "ends inside its header: save it again");
  }
  const auto header = ParseJson(text, 8);
  if (!header.ok() || !header->is_object()) {
    return BadModel(name, "has a header that is no JSON object: it is no safetensors file");
  }
  int64_t total = 0;
  for (const auto& [tensor, info] : header->items()) {
    if (tensor == "__metadata__") continue;
    int64_t count = 1;
    if (!info.is_object() || !info.contains("shape") || !info["shape"].is_array()) {
      return BadModel(name, absl::StrCat("gives no shape for tensor ", tensor.substr(0, 100)));
    }
    for (const auto& size : info["shape"]) {
      if (!size.is_number_unsigned() ||
          __builtin_mul_overflow(count, size.get<int64_t>(), &count) || count < 0) {
        return BadModel(name, absl::StrCat("has an impossible shape for ", tensor.substr(0, 100)));
      }
    }
    if (__builtin_add_overflow(total, count, &total)) {
      return BadModel(name, "has more numbers than fit into 63 bits");
    }
  }
  return total;
}

}  // namespace

absl::StatusOr<v1::ModelSummary> SummarizeModel(const std::string& directory,
                                                const v1::Artifact& artifact) {
  v1::ModelSummary summary;
  const auto text = ReadFile(directory + "/config.json", 1 << 20);
  if (!text.ok()) return BadModel("config.json", "cannot be read or is larger than 1 MiB");
  const auto config = ParseJson(*text);
  if (!config.ok())
    return BadModel("config.json", absl::StrCat("is no JSON: ", config.status().message()));
  if (!config->is_object() || !config->contains("model_type") ||
      !(*config)["model_type"].is_string()) {
    return BadModel("config.json", "lacks model_type: it is not that of a Hugging Face model");
  }
  summary.set_model_type((*config)["model_type"].get<std::string>());
  THAW_ASSIGN_OR_RETURN(const int32_t blocks,
                        ConfigNumber(*config, {"num_hidden_layers", "n_layer", "num_layers"}));
  THAW_ASSIGN_OR_RETURN(const int32_t width,
                        ConfigNumber(*config, {"hidden_size", "n_embd", "d_model", "dim"}));
  THAW_ASSIGN_OR_RETURN(const int32_t positions,
                        ConfigNumber(*config, {"max_position_embeddings", "n_positions"}));
  summary.set_blocks(blocks);
  summary.set_hidden_size(width);
  summary.set_max_positions(positions);
  THAW_RETURN_IF_ERROR(ReadLabels(*config, &summary));
  int64_t parameters = 0;
  for (const v1::File& file : artifact.files()) {
    if (!absl::EndsWith(file.path(), ".safetensors")) continue;
    THAW_ASSIGN_OR_RETURN(const int64_t count, CountParameters(directory, file.path()));
    if (__builtin_add_overflow(parameters, count, &parameters)) {
      return BadModel(file.path(), "has more numbers than fit into 63 bits");
    }
  }
  summary.set_parameters(parameters);
  return summary;
}

}  // namespace thaw
