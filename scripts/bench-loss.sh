#!/usr/bin/env bash
# Measures the loss tile by tile against the loss with the logits of all rows at once, and writes the table into docs/memory.md.
#   scripts/bench-loss.sh      a minute; options of longnet bench loss may follow
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dotnet build src/Trainer -c Release --nologo -v quiet >&2
table=$(mktemp)
trap 'rm -f "$table"' EXIT
src/Trainer/bin/Release/net10.0/longnet bench loss "$@" --markdown "$table"
scripts/into-document.sh docs/memory.md loss "$table"
