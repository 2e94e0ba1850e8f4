#!/usr/bin/env bash
# Writes PublicAPI.Unshipped.txt of the packages again, from what the analyzer finds public and not yet shipped. Look at the difference
# before you commit it: each line is a promise to the packages' users.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
log=$(mktemp)
file="" before=""
# The analyzer reports what the file does not list, so it is empty while it builds. An interrupt restores it.
restore() { [ -z "$before" ] || echo "$before" >"$file"; rm -f "$log"; }
trap restore EXIT
for project in src/Core src/Distributed; do
  file=$project/PublicAPI.Unshipped.txt
  before=$(cat "$file")
  echo "#nullable enable" >"$file"
  # The second project takes the first one's build.
  if ! DOTNET_CLI_UI_LANGUAGE=en dotnet build "$project" -c Release --nologo --no-incremental -v quiet \
    -p:WarningsNotAsErrors=RS0016 -p:BuildProjectReferences=false >"$log"; then
    cat "$log" >&2
    exit 1
  fi
  before=""
  sed -nE "s/.*warning RS0016: Symbol '(.*)' is not part of the declared public API.*/\1/p" "$log" | LC_ALL=C sort -u >>"$file"
  echo "$file: $(($(wc -l <"$file") - 1)) members"
done
