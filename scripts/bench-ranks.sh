#!/usr/bin/env bash
# What several ranks cost on one machine: the same steps on one rank with all threads, and on N ranks that share them.
#   scripts/bench-ranks.sh [CONFIG]     default longnet-small
#   --ranks N          default 2
#   --repetitions N    times that both are started, in turn (default 3); the best of each counts
#   --steps N          measured steps of each start (default 5)
# The last line is the ratio of their tokens per second. Exit codes: 0 at least 0.95; 1 below.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config=longnet-small ranks=2 repetitions=3 steps=5 least=0.95
while [ $# -gt 0 ]; do
  case $1 in
    --ranks) ranks=$2; shift 2 ;;
    --repetitions) repetitions=$2; shift 2 ;;
    --steps) steps=$2; shift 2 ;;
    -*) sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
    *) config=$1; shift ;;
  esac
done

# shellcheck source=scripts/mpi-environment.sh
. scripts/mpi-environment.sh
dotnet build src/Trainer -c Release --nologo -v quiet >&2
longnet=src/Trainer/bin/Release/net10.0/longnet
one=$(mktemp) several=$(mktemp)
trap 'rm -f "$one" "$several"' EXIT
# In turn, so that whatever slows the machine meanwhile slows both.
for _ in $(seq "$repetitions"); do
  "$longnet" bench step --config "$config" --steps "$steps" | tee -a "$one"
  mpiexec -n "$ranks" "$longnet" bench step --config "$config" --steps "$steps" </dev/null | tee -a "$several"
done

best() { grep -o '[0-9]* tokens/s' "$1" | sort -n | tail -1 | cut -d ' ' -f 1; }
awk -v one="$(best "$one")" -v several="$(best "$several")" -v ranks="$ranks" -v least="$least" 'BEGIN {
  printf "1 rank: %d tokens/s, %d ranks: %d tokens/s, ratio %.3f\n", one, ranks, several, several / one
  exit several / one < least
}'
