#include "worker/model/pooled_head.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "worker/model/config_fields.h"

namespace thaw {
namespace {

constexpr int64_t kPooledHeadVersion = 1;
constexpr int64_t kMostPooledBlocks = 10'000;
constexpr int64_t kMostPooledHidden = 65'536;

constexpr std::pair<Pooling, const char*> kPoolings[] = {{Pooling::kMean, "mean"},
                                                         {Pooling::kCls, "cls"},
                                                         {Pooling::kLast, "last"},
                                                         {Pooling::kMax, "max"}};

}  // namespace

bool SameForm(const PooledHeadConfig& a, const PooledHeadConfig& b) {
  return a.blocks == b.blocks && a.pooling == b.pooling && a.normalize == b.normalize &&
         a.hidden_size == b.hidden_size;
}

absl::StatusOr<PooledHeadConfig> ParsePooledHead(const nlohmann::json& value) {
  if (!value.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "config.json: ", kPooledHeadField, ": expected an object, found ", ShownJson(value)));
  }
  ConfigFields fields(value, absl::StrCat(kPooledHeadField, "."));
  const int64_t version = fields.Size("format_version", 1);
  if (version > kPooledHeadVersion) {
    fields.Fail("format_version", absl::StrCat("expected at most ", kPooledHeadVersion, ", found ",
                                               version, ": a newer thaw has written it"));
  }
  PooledHeadConfig head;
  head.blocks = fields.Size("blocks", 0, {}, kMostPooledBlocks);
  head.normalize = fields.Flag("normalize", false);
  head.hidden_size = fields.Size("hidden_size", 0, 0, kMostPooledHidden);
  head.dropout = fields.Real("dropout", 0, 1, 0);
  const std::string name = fields.Text("pooling", "");
  const auto* const pooling = std::find_if(std::begin(kPoolings), std::end(kPoolings),
                                           [&](const auto& one) { return one.second == name; });
  if (pooling == std::end(kPoolings)) {
    fields.Fail("pooling",
                absl::StrCat("\"", name, "\" is not supported, only mean, cls, last and max"));
  } else {
    head.pooling = pooling->first;
  }
  fields.RefuseUnread();
  THAW_RETURN_IF_ERROR(fields.status());
  return head;
}

nlohmann::json PooledHeadJson(const PooledHeadConfig& head) {
  const auto* const pooling =
      std::find_if(std::begin(kPoolings), std::end(kPoolings),
                   [&](const auto& one) { return one.first == head.pooling; });
  return {{"format_version", kPooledHeadVersion}, {"blocks", head.blocks},
          {"pooling", pooling->second},           {"normalize", head.normalize},
          {"hidden_size", head.hidden_size},      {"dropout", head.dropout}};
}

}  // namespace thaw
