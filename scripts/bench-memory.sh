#!/usr/bin/env bash
# What long sequences take of memory and time: one training step each, on one rank.
#   scripts/bench-memory.sh            writes its table into docs/memory.md
#   --quick                            a sixteenth of the lengths, and writes nothing
# Exit codes: 0 every step stayed within its limit; 1 else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

part=1 document=docs/memory.md
while [ $# -gt 0 ]; do
  case $1 in
    --quick) part=16 document=/dev/null; shift ;;
    *) sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
done

dotnet build src/Trainer -c Release --nologo -v quiet >&2
longnet=src/Trainer/bin/Release/net10.0/longnet
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
table=$place/table
{
  echo "| length | vocabulary | compute | recompute | offload | peak resident memory | limit | step |"
  echo "| --- | --- | --- | --- | --- | --- | --- | --- |"
} >"$table"
code=0

# length, vocabulary, compute, recompute, offload, limit in GiB (- for none)
measure() {
  local length=$(($1 / part)) run=$place/run
  rm -rf "$run"
  "$longnet" train --config long-context --output "$run" --set training.steps=1 --set training.sequence_length="$length" --set model.vocabulary="$2" \
    --set precision.compute="$3" --set memory.recompute="$4" --set memory.offload="$5" --set checkpoint.asynchronous=false >&2
  read -r peak seconds < <(sed -n 's/.*"step_seconds": *\([0-9.e+-]*\).*"peak_memory_bytes": *\([0-9]*\).*/\2 \1/p' "$run/metrics.jsonl")
  awk -v length_="$length" -v vocabulary="$2" -v compute="$3" -v recompute="$4" -v offload="$5" -v limit="$6" -v peak="$peak" -v seconds="$seconds" 'BEGIN {
    printf "| %d | %d | %s | %s | %s | %.2f GiB | %s | %.0f s, %.0f tokens/s |\n", length_, vocabulary, compute, recompute, offload, peak / 2^30, limit == "-" ? "" : limit " GiB", seconds, length_ / seconds
    exit limit != "-" && peak > limit * 2^30
  }' | tee -a "$table" || code=1
}

measure 131072 256 float32 none none -
measure 131072 256 float32 block none -
measure 131072 256 float32 full none -
measure 131072 256 bfloat16 full none -
measure 131072 100277 float32 full none 12
measure 1048576 256 bfloat16 full none 16
measure 262144 256 float32 full disk 8

if [ "$document" != /dev/null ]; then
  scripts/into-document.sh "$document" steps "$table"
fi
exit "$code"
