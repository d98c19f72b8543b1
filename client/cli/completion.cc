#include "client/cli/completion.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace thaw {

std::string BashCompletion(const std::vector<CompletionEntry>& entries) {
  std::string cases;
  for (const CompletionEntry& entry : entries) {
    absl::StrAppend(&cases, "    '", entry.command, "') words='", absl::StrJoin(entry.words, " "),
                    "' ;;\n");
  }
  // The command is what was typed before the cursor without flags, at most two words of it.
  return absl::StrCat(R"(# source <(thaw completion bash)
_thaw() {
  local command='' word words=''
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in -*) continue ;; esac
    case "$command" in
      '') command=$word ;;
      model|dataset|result|completion) command="$command $word"; break ;;
      *) break ;;
    esac
  done
  case "$command" in
)",
                      cases, R"(  esac
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _thaw thaw
)");
}

}  // namespace thaw
