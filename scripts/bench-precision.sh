#!/usr/bin/env bash
# What bfloat16 costs and brings: the loss of configs/quickstart.yaml in both types, and training steps per second of a model with 512 channels.
#   scripts/bench-precision.sh            writes its tables into docs/memory.md
#   --quick                               5 steps instead of 200, one round, and writes nothing
# Exit codes: 0 the losses agree to 0.02 bits per byte; 1 else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

steps=200 rounds=3 document=docs/memory.md
while [ $# -gt 0 ]; do
  case $1 in
    --quick) steps=5 rounds=1 document=/dev/null; shift ;;
    *) sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
done

dotnet build src/Trainer -c Release --nologo -v quiet >&2
longnet=src/Trainer/bin/Release/net10.0/longnet
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

bits() { # TYPE: of the last evaluation
  "$longnet" train --config quickstart --output "$place/$1" --set training.steps="$steps" --set precision.compute="$1" --set checkpoint.every_steps=0 >&2
  sed -n 's/.*"eval_bits_per_byte": *\([0-9.e+-]*\).*/\1/p' "$place/$1/metrics.jsonl" | tail -n 1
}

# Tokens per second, of the best of some rounds that alternate between the types: what else the machine does meets both.
: >"$place/float32.rates"
: >"$place/bfloat16.rates"
for _ in $(seq "$rounds"); do
  for type in float32 bfloat16; do
    "$longnet" bench step --config longnet-small --steps 3 --set precision.compute="$type" --set model.d_model=512 --set model.heads=8 --set model.feed_forward=2048 |
      tee >(cat >&2) | sed -n 's/.* \([0-9]*\) tokens\/s.*/\1/p' >>"$place/$type.rates"
  done
done
best() { sort -n "$place/$1.rates" | tail -n 1; }

code=0
{
  echo "On $(grep -m 1 '^model name' /proc/cpuinfo | cut -d : -f 2 | xargs) ($(grep -m 1 '^flags' /proc/cpuinfo | tr ' ' '\n' | grep -E '^(avx512f|avx512_bf16|amx_bf16)$' | xargs || true)), $(nproc) processors:"
  echo
  echo "| compute | bits per byte after $steps steps of the quickstart | tokens/s, d_model 512, 8192 rows |"
  echo "| --- | --- | --- |"
  float=$(bits float32) half=$(bits bfloat16)
  awk -v a="$float" -v b="$half" -v x="$(best float32)" -v y="$(best bfloat16)" 'BEGIN {
    printf "| float32 | %.4f | %d |\n| bfloat16 | %.4f (%+.4f) | %d (%.2f times as many) |\n", a, x, b, b - a, y, y / x
    exit (x == 0 || b - a > 0.02 || a - b > 0.02 || a == "" || b == "")
  }' || code=1
  exit "$code"
} | tee "$place/table" || code=1

if ! grep -q '^| bfloat16 | [0-9]' "$place/table"; then
  echo "bench-precision.sh: a run has failed; nothing is written." >&2
  exit 1
fi
if [ "$document" != /dev/null ]; then
  scripts/into-document.sh "$document" precision "$place/table"
fi
exit "$code"
