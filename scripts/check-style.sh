#!/usr/bin/env bash
# The layout of the code: lines of at most 120 columns, and as CSharpier lays them out. The build checks everything else: code style,
# banned symbols (build/BannedSymbols.txt) and the public API of the packages (PublicAPI.*.txt).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Columns, not bytes. Files that are not yet added count too.
if LC_ALL=C.UTF-8 git grep --untracked -nE '^.{121,}' -- 'src/*.cs' 'tests/*.cs'; then
  echo "check-style.sh: these lines are longer than 120 columns." >&2
  exit 1
fi
dotnet tool restore >/dev/null
dotnet csharpier check src tests
