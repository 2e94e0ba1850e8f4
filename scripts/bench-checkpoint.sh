#!/usr/bin/env bash
# How fast checkpoints are written, against dd with fsync on the same disk, and how long they hold up training.
#   scripts/bench-checkpoint.sh [FOLDER]    a folder on the disk that is meant; default: runs
#   --config NAME      whose state is saved (default longnet: 1 GB)
#   --set KEY=VALUE    may be repeated
#   --rounds N         times that both are started, in turn (default 3); the median of each counts
# Exit codes: 0 at least 80 % of dd's throughput, and less than 5 % of a save's length held up; 1 else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=runs config=longnet rounds=3
# A step of the paper's shape that a desk can do while it saves.
settings=(--set training.sequence_length=256 --set training.batch_size=1 --set data.path=[src])
while [ $# -gt 0 ]; do
  case $1 in
    --config) config=$2; shift 2 ;;
    --set) settings+=(--set "$2"); shift 2 ;;
    --rounds) rounds=$2; shift 2 ;;
    -*) sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
    *) folder=$1; shift ;;
  esac
done

dotnet build src/Trainer -c Release --nologo -v quiet >&2
mkdir -p "$folder"
place=$(mktemp -d "$folder/bench-checkpoint.XXXXXX")
trap 'rm -rf "$place"' EXIT
longnet=src/Trainer/bin/Release/net10.0/longnet

# Megabytes per second of dd, with as many bytes as a checkpoint has. What it reads is in memory: zeros would tell nothing of disks that
# leave them out.
disk() {
  local began ended
  began=$(date +%s%N)
  dd if="$place/source" of="$place/dd" bs=16M conv=fsync status=none
  ended=$(date +%s%N)
  rm "$place/dd"
  echo "dd with fsync: $(($bytes * 1000 / (ended - began))) MB/s" | tee -a "$place/disk"
}

bytes=0
for _ in $(seq "$rounds"); do
  "$longnet" bench checkpoint --config "$config" "${settings[@]}" --folder "$place" | tee -a "$place/saves"
  bytes=$(grep -o 'save: [0-9]*' "$place/saves" | tail -1 | cut -d ' ' -f 2)
  [ -s "$place/source" ] || head -c "$bytes" /dev/urandom >"$place/source"
  cat "$place/source" >/dev/null
  disk
done

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
awk -v disk="$(grep -o '[0-9]* MB/s' "$place/disk" | median)" -v save="$(grep '^save' "$place/saves" | grep -o '[0-9]* MB/s' | median)" \
  -v stall="$(grep -o '[0-9.]* *%' "$place/saves" | tr -d ' %' | median)" 'BEGIN {
  printf "save %d MB/s, dd with fsync %d MB/s: %.0f %%; training held up %.1f %% of a save\n", save, disk, 100 * save / disk, stall
  exit save < 0.8 * disk || stall >= 5
}'
