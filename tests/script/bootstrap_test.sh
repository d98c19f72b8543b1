#!/usr/bin/env bash
# script/bootstrap's behaviour that needs no network: arguments, the pins' table, quiet when there is nothing to do.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
failures=0
expect() { # expect WHAT CONDITION…
  local what=$1
  shift
  if ! "$@"; then
    echo "FAILED: $what"
    failures=$((failures + 1))
  fi
}

output=$(script/bootstrap --dem 2>&1)
status=$?
expect "a wrong argument is a usage error" [ $status = 2 ]
expect "the message names it: $output" grep -q -- '"--dem".*--demo' <<<"$output"

output=$(script/bootstrap --help)
expect "help names the options" grep -q -- '--cuda' <<<"$output"

output=$(THAW_DEPS=/proc/none script/bootstrap 2>&1)
status=$?
expect "an unwritable directory fails" [ $status = 1 ]
expect "the message says what to do: $output" grep -q 'THAW_DEPS' <<<"$output"

wrong=$(grep -vE '^#' script/downloads.txt | grep -vE '^[a-z-]+ +[^ ]+ +[0-9.]+ +[0-9a-f]{64}$')
expect "every download has group, package, version and sha256: $wrong" [ -z "$wrong" ]

output=$(script/bootstrap 2>&1)
expect "a second run says nothing: $output" [ -z "$output" ]

[ $failures = 0 ]
