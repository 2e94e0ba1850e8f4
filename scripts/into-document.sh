#!/usr/bin/env bash
# Puts a table where a document has its place, between <!-- NAME: begin --> and <!-- NAME: end -->:
#   scripts/into-document.sh DOCUMENT NAME TABLE
# The document stays as it is where it has no such place.
set -euo pipefail
[ $# = 3 ] || { sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
document=$1 name=$2 table=$3
for marker in "<!-- $name: begin -->" "<!-- $name: end -->"; do
  grep -qF -- "$marker" "$document" || { echo "into-document.sh: $document has no $marker." >&2; exit 1; }
done
written=$(mktemp)
trap 'rm -f "$written"' EXIT
awk -v table="$table" -v begin="<!-- $name: begin -->" -v end="<!-- $name: end -->" '
  $0 == end { inside = 0 }
  !inside { print }
  $0 == begin { inside = 1; while ((getline line < table) > 0) print line }
' "$document" >"$written"
cat "$written" >"$document"
