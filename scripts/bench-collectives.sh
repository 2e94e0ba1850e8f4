#!/usr/bin/env bash
# Compares longnet's collectives with those of a plain C program through the same MPI library, for each MPI with a compiler here.
#   scripts/bench-collectives.sh            builds longnet and the C program first
#   --repetitions N    times that both are started, in turn (default 5)
#   --rounds N         rounds of each start (default 100)
#   --sizes LIST       default 1MB,16MB,64MB: what an all-gather leaves on a rank, what a reduce-scatter takes from each
#   --ranks N          default 2
# Both are measured by the same rule, in turn, so that whatever slows the machine meanwhile slows both; of all starts the middle
# one of their best rounds counts. Exit codes: 0 longnet reaches 90 % of C's bandwidth everywhere; 1 it does not; 2 nothing could be compared.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

least=90 repetitions=5 rounds=100 sizes=1MB,16MB,64MB ranks=2
say() { printf 'bench-collectives: %s\n' "$*" >&2; }
usage() { sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage
  case $1 in
    --repetitions) repetitions=$2 ;;
    --rounds) rounds=$2 ;;
    --sizes) sizes=$2 ;;
    --ranks) ranks=$2 ;;
    *) usage ;;
  esac
  shift 2
done

bytes=()
for size in ${sizes//,/ }; do
  case $size in
    *[!0-9]KB | *[!0-9]MB | "" | [!0-9]*) say "$size is no size such as 64KB or 16MB."; exit 2 ;;
    *KB) bytes+=($((${size%KB} << 10))) ;;
    *MB) bytes+=($((${size%MB} << 20))) ;;
    *) say "$size is no size such as 64KB or 16MB."; exit 2 ;;
  esac
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck source=scripts/mpi-environment.sh
. scripts/mpi-environment.sh
dotnet build src/Trainer -c Release --nologo -v quiet >&2
longnet=src/Trainer/bin/Release/net10.0/longnet

# Each line of a result: operation, bytes, best seconds per call.
of_c() { "mpiexec.$1" -n "$ranks" "$work/$1" "$rounds" "${bytes[@]}" </dev/null | cut -f 1-3 >>"$work/$1.c"; }
of_longnet() {
  "mpiexec.$1" -n "$ranks" "$longnet" bench collectives --operations all-gather,reduce-scatter --sizes "$sizes" --rounds "$rounds" \
    --json "$work/$1.json" </dev/null >/dev/null
  # One number per line, in the order of the program's record.
  tr -d ' ",' <"$work/$1.json" | awk -F: -v OFS='\t' \
    '$1 == "operation" { operation = $2 } $1 == "bytes" { size = $2 } $1 == "best_seconds" { print operation, size, $2 }' >>"$work/$1.longnet"
}

compared=0
for mpi in openmpi mpich; do
  if ! command -v "mpicc.$mpi" >/dev/null || ! command -v "mpiexec.$mpi" >/dev/null; then
    say "$mpi is left out: no mpicc.$mpi or mpiexec.$mpi here (scripts/setup.sh --benchmarks installs both)."
    continue
  fi
  "mpicc.$mpi" -O3 -march=native benchmarks/collectives.c -o "$work/$mpi"
  for ((i = 0; i < repetitions; i++)); do
    # Neither always goes first.
    if ((i % 2)); then of_longnet "$mpi"; of_c "$mpi"; else of_c "$mpi"; of_longnet "$mpi"; fi
  done
  compared=$((compared + 1))
  sort -k1,1 -k2,2n -k3,3g "$work/$mpi.c" | sed "s/^/$mpi\tc\t/" >>"$work/all"
  sort -k1,1 -k2,2n -k3,3g "$work/$mpi.longnet" | sed "s/^/$mpi\tlongnet\t/" >>"$work/all"
done
[ "$compared" -gt 0 ] || { say "no MPI with a compiler is here: scripts/setup.sh --benchmarks installs them."; exit 2; }

awk -F'\t' -v ranks="$ranks" -v least="$least" -v repetitions="$repetitions" -v rounds="$rounds" '
  { sub("_", "-", $3); key = $1 FS $3 FS $4; if (!(key in seen)) { seen[key] = 1; order[++keys] = key }; seconds[key, $2, ++count[key, $2]] = $5 }
  # Sorted already.
  function middle(key, who,   n) { n = count[key, who]; return n ? (seconds[key, who, int((n + 1) / 2)] + seconds[key, who, int(n / 2) + 1]) / 2 : 0 }
  END {
    printf "%d ranks, float32; the middle of %d starts, of each the best of %d rounds; bus bandwidth: size x (P-1)/P / time\n", ranks, repetitions, rounds
    printf "| MPI | operation | size | C GB/s | longnet GB/s | ratio |\n| --- | --- | ---: | ---: | ---: | ---: |\n"
    for (i = 1; i <= keys; i++) {
      split(order[i], part, FS)
      c = middle(order[i], "c"); ours = middle(order[i], "longnet")
      if (!c || !ours) { printf "%s: measured by one of both only\n", order[i]; missing++; continue }
      moved = part[3] * (ranks - 1) / ranks / 1e9
      printf "| %s | %s | %gMB | %.2f | %.2f | %.0f %% |\n", part[1], part[2], part[3] / 1048576, moved / c, moved / ours, 100 * c / ours
      if (100 * c / ours < least) below = below (below ? "; " : "") sprintf("%s %s of %gMB: %.0f %%", part[1], part[2], part[3] / 1048576, 100 * c / ours)
    }
    if (below == "" && !missing && keys) print "all at least " least " %"
    else { print "below " least " %: " (below ? below : "not all could be compared"); exit 1 }
  }' "$work/all"
