#!/usr/bin/env bash
# Compares what longnet plan predicts with what training takes on this machine, and writes the table into docs/planning.md.
#   scripts/check-plan.sh            ten configurations, some minutes per round: leave the machine to them
#   --rounds N                       how often each is measured and run (default 3): the middle counts
#   --steps N                        steps of each (default 40)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/mpi-environment.sh

steps=40 rounds=3
while [ $# -gt 0 ]; do
  case $1 in
    --steps) steps=$2; shift 2 ;;
    --rounds) rounds=$2; shift 2 ;;
    *) sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
done

dotnet build src/Trainer -c Release --nologo -v quiet >&2
longnet=$PWD/src/Trainer/bin/Release/net10.0/longnet
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

# Two ranks measure together what they reach together.
start() { local ranks=$1; shift; if [ "$ranks" = 1 ]; then "$longnet" "$@"; else mpiexec -n "$ranks" "$longnet" "$@"; fi; }

# LENGTH RANKS PRECISION RECOMPUTE: one line of predicted and measured bytes and seconds.
check() {
  local run=$place/run
  rm -rf "$run"
  start "$2" doctor --json >"$place/machine.json" 2>/dev/null || true
  start "$2" train --config longnet-small --set training.sequence_length="$1" --set training.steps="$steps" --set data.path=["$PWD/src"] \
    --set evaluation.every_steps=0 --set checkpoint.every_steps=0 --set precision.compute="$3" --set memory.recompute="$4" --output "$run" >&2
  "$longnet" plan --check "$run" --ranks "$2" --machine "$place/machine.json" --json |
    grep -oE '"(peak_memory_bytes|step_seconds)": *[0-9.eE+-]+' | sed 's/.*: *//' | xargs >>"$place/$1 $2 $3 $4"
}

# FILE COLUMN: the middle of the rounds.
middle() { cut -d ' ' -f "$2" "$1" | sort -g | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }

configurations=()
for length in 4096 8192; do
  for precision in float32 bfloat16; do
    for recompute in none full; do configurations+=("$length 1 $precision $recompute"); done
  done
done
configurations+=("8192 2 float32 none" "8192 2 bfloat16 full")
# A shared machine's speed changes within seconds. So rounds go over all configurations, and each measures the machine anew.
for round in $(seq "$rounds"); do
  for configuration in "${configurations[@]}"; do
    echo "round $round of $rounds: $configuration" >&2
    # shellcheck disable=SC2086  # four words
    check $configuration
  done
done

{
  echo "On $(grep -m 1 '^model name' /proc/cpuinfo | cut -d : -f 2 | xargs), $(nproc) processors, \`configs/longnet-small.yaml\`, $steps steps, $([ "$rounds" = 1 ] && echo "one round" || echo "the middle of $rounds rounds"):"
  echo
  echo "| length | ranks | compute | recompute | memory predicted | measured | error | step predicted | measured | error |"
  echo "| ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
  for configuration in "${configurations[@]}"; do
    file=$place/$configuration
    awk -v row="${configuration// / | }" -v a="$(middle "$file" 1)" -v b="$(middle "$file" 3)" -v x="$(middle "$file" 2)" -v y="$(middle "$file" 4)" 'BEGIN {
      printf "| %s | %.0f MiB | %.0f MiB | %+.0f %% | %.2f s | %.2f s | %+.0f %% |\n", row, a / 2^20, b / 2^20, (a / b - 1) * 100, x, y, (x / y - 1) * 100
    }'
  done
} | tee "$place/table"

scripts/into-document.sh docs/planning.md measured "$place/table"
