#!/usr/bin/env bash
# Compares what longnet plan predicts with what training takes on this machine, and writes the table into docs/planning.md.
#   scripts/check-plan.sh            ten short runs, some minutes: leave the machine to them
#   --steps N                        steps of each (default 8)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/mpi-environment.sh

steps=8
while [ $# -gt 0 ]; do
  case $1 in
    --steps) steps=$2; shift 2 ;;
    *) sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
done

dotnet build src/Trainer -c Release --nologo -v quiet >&2
longnet=$PWD/src/Trainer/bin/Release/net10.0/longnet
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

# LENGTH RANKS PRECISION RECOMPUTE
check() {
  local run=$place/$1-$2-$3-$4 settings=()
  # A shared machine's speed changes within minutes. Two ranks measure together what they reach together.
  if [ "$2" = 1 ]; then "$longnet" doctor --json >"$place/machine.json" 2>/dev/null || true; else mpiexec -n "$2" "$longnet" doctor --json >"$place/machine.json" 2>/dev/null || true; fi
  settings=(--set training.sequence_length="$1" --set training.steps="$steps" --set data.path=["$PWD/src"] --set evaluation.every_steps=0
    --set checkpoint.every_steps=0 --set precision.compute="$3" --set memory.recompute="$4" --output "$run")
  if [ "$2" = 1 ]; then
    "$longnet" train --config longnet-small "${settings[@]}" >&2
  else
    mpiexec -n "$2" "$longnet" train --config longnet-small "${settings[@]}" >&2
  fi
  "$longnet" plan --check "$run" --ranks "$2" --machine "$place/machine.json" --markdown
}

{
  echo "On $(grep -m 1 '^model name' /proc/cpuinfo | cut -d : -f 2 | xargs), $(nproc) processors, \`configs/longnet-small.yaml\`, $steps steps:"
  echo
  echo "| length | ranks | compute | recompute | memory predicted | measured | error | step predicted | measured | error |"
  echo "| ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
  for length in 4096 8192; do
    for precision in float32 bfloat16; do
      for recompute in none full; do
        check "$length" 1 "$precision" "$recompute"
      done
    done
  done
  check 8192 2 float32 none
  check 8192 2 bfloat16 full
} | tee "$place/table"

awk -v table="$place/table" '
  /<!-- measured: end -->/ { inside = 0 }
  !inside { print }
  /<!-- measured: begin -->/ { inside = 1; while ((getline line < table) > 0) print line }
' docs/planning.md >"$place/planning.md"
cp "$place/planning.md" docs/planning.md
