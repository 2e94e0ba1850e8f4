#!/usr/bin/env bash
# Checks everything that needs a GPU, from a bundle of scripts/gpu/pack.sh: check.sh BUNDLE_DIR [--dry-run] [PART...]
#   without PART: all parts, the most telling first
#   --dry-run: what needs no GPU runs on CPUs, the rest is skipped; also where there is no GPU
# A part has its own process, time limit and log, and a part that fails stops no other. Results go to $OUT, or ./gpu-out:
# table.txt, results.json, gpu-report.md, logs.tar.gz. Exit codes: 0 all is well, 1 a part failed, 2 wrong arguments or no python3.
# Variables, all optional:
#   LONGNET_GPU_CHECK_SECONDS    time for all parts together, 520 where unset
#   LONGNET_GPU_CHECK_PYTHON     another python3
#   LONGNET_GPU_CHECK_REHEARSAL  1: CPUs stand in for the GPU, with small shapes, to try the parts themselves
#   LONGNET_LIBTORCH             another libtorch than the one of python3's PyTorch
#   LONGNET_TORCH_INCLUDE        its headers; else ../include beside it
#   LONGNET_NCCL_LIBRARY         another libnccl.so.2
set -u

usage() { sed -n '2,15s/^# //p; 2,15s/^#   /  /p' "${BASH_SOURCE[0]}" >&2; exit 2; }
if [ $# -lt 1 ] || [ ! -d "$1" ]; then usage; fi
bundle=$(cd "$1" && pwd)
self=$bundle/check.sh
shift
python=${LONGNET_GPU_CHECK_PYTHON:-python3}
# shellcheck source=scripts/gpu/parts.sh
. "$bundle/parts.sh"

if [ "${1:-}" = --run ]; then
  cd "$LONGNET_GPU_CHECK_WORK" || exit 2
  ulimit -c 0
  "part_$2"
  exit
fi

dry=""
if [ "${1:-}" = --dry-run ]; then dry=yes; shift; fi
for part in "$@"; do
  [ -n "${limits[$part]:-}" ] || { echo "check.sh: there is no part $part." >&2; usage; }
done
[ $# -gt 0 ] && parts=("$@") || parts=("${all_parts[@]}")
command -v "$python" >/dev/null || { echo "check.sh: $python is missing." >&2; exit 2; }
out=${OUT:-./gpu-out}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
total=${LONGNET_GPU_CHECK_SECONDS:-520}

# ---- the environment of the programs ----

ldconfig=$(command -v ldconfig || echo /sbin/ldconfig)
"$ldconfig" -p >"$work/ldconfig.txt" 2>/dev/null
if [ -z "${LONGNET_LIBTORCH:-}" ]; then
  LONGNET_LIBTORCH=$("$python" -c 'import importlib.util as u; s = u.find_spec("torch"); print(s.submodule_search_locations[0] + "/lib" if s else "")' 2>/dev/null)
fi
# Programs of "pack.sh --built" bring their own and take no other.
own=$(dirname "$(readlink -f "$bundle/programs/libLibTorchSharp.so")")
if [ -e "$own/libtorch_cpu.so" ]; then
  LONGNET_GPU_CHECK_LIBTORCH=$own
  unset LONGNET_LIBTORCH
else
  LONGNET_GPU_CHECK_LIBTORCH=$LONGNET_LIBTORCH
  export LONGNET_LIBTORCH
fi
export LONGNET_GPU_CHECK_LIBTORCH
site=$(dirname "$(dirname "${LONGNET_GPU_CHECK_LIBTORCH:-/none/torch/lib}")")
libraries=""
for folder in "$site"/nvidia/*/lib; do
  [ ! -d "$folder" ] || libraries=$libraries:$folder
done
if [ -z "${LONGNET_NCCL_LIBRARY:-}" ]; then
  for file in "$site"/nvidia/nccl/lib/libnccl.so.2 "$site"/nvidia/*/lib/libnccl.so.2 "$site"/nvidia/*/*/lib/libnccl.so.2; do
    [ ! -f "$file" ] || { export LONGNET_NCCL_LIBRARY=$file; break; }
  done
fi
if ! grep -q 'libcuda\.so\.1' "$work/ldconfig.txt"; then
  for folder in /usr/local/nvidia/lib64 /usr/local/nvidia/lib /usr/lib/wsl/lib; do
    [ ! -e "$folder/libcuda.so.1" ] || { libraries=$libraries:$folder; break; }
  done
fi
# Without OpenSSL .NET ends the programs at their first hash.
openssl=$(sed -n 's/.*libssl\.so\.3 .*x86-64.* => //p' "$work/ldconfig.txt" | head -1)
[ -s "$openssl" ] || libraries=$libraries:$bundle/openssl
command -v nvidia-smi >/dev/null || PATH=$PATH:/usr/local/nvidia/bin
command -v nvcc >/dev/null || PATH=$PATH:/usr/local/cuda/bin

# no_gpu: why parts that need a GPU are skipped; empty where they run.
no_gpu="" rehearsal=${LONGNET_GPU_CHECK_REHEARSAL:-}
if [ -n "$dry" ]; then
  no_gpu="a dry run uses no GPU"
elif [ -z "$rehearsal" ] && ! nvidia-smi --list-gpus 2>/dev/null | grep -q '^GPU '; then
  no_gpu="nvidia-smi lists no GPU here"
fi
[ -z "$no_gpu" ] || export CUDA_VISIBLE_DEVICES=""

# shellcheck disable=SC2031  # the parts run in processes of their own
export LONGNET_GPU_CHECK_LIBRARY_PATH=${LD_LIBRARY_PATH:-} LONGNET_GPU_CHECK_WORK=$work LONGNET_GPU_CHECK_REASON=$no_gpu
export LONGNET_GPU_CHECK_REHEARSAL=$rehearsal PATH PYTHONUNBUFFERED=1
# shellcheck disable=SC2031
LD_LIBRARY_PATH=${libraries#:}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
[ -n "$LD_LIBRARY_PATH" ] || unset LD_LIBRARY_PATH
[ -z "${LD_LIBRARY_PATH:-}" ] || export LD_LIBRARY_PATH
export DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_EnableDiagnostics=0 TESTINGPLATFORM_TELEMETRY_OPTOUT=1

# ---- running them ----

# The last line that is no stack frame; of a part that failed, what its program said last of an error, if it did.
reason() {
  local lines error=""
  lines=$(grep -vE '^[[:space:]]*(at |---|$)' "$1" 2>/dev/null)
  [ "$2" = 0 ] || error=$(grep -E '^longnet: |Unhandled exception|Exception: |Error: |[Ee]rror:' <<<"$lines" | tail -1)
  printf '%s' "${error:-$(tail -1 <<<"$lines")}" | tr -d '\r' | tr '\t' ' ' | cut -c1-600
}

save() {
  "$python" "$bundle/report.py" "$work" "$out" "$bundle" "$SECONDS"
  (cd "$work" && tar czf "$out/logs.tar.gz.new" --exclude=rows --exclude=ldconfig.txt --exclude='runs/*/checkpoints' --exclude=text.txt . &&
    mv "$out/logs.tar.gz.new" "$out/logs.tar.gz")
}

# Ends what a part left behind, such as ranks that outlived their launcher: it would hold the GPU's memory.
end_leftovers() {
  local file
  # shellcheck disable=SC2013  # these names have no blanks
  for file in $(grep -lzxF "LONGNET_GPU_CHECK_WORK=$work" /proc/[0-9]*/environ 2>/dev/null); do
    file=${file#/proc/}
    kill -KILL "${file%/environ}" 2>/dev/null
  done
}

run() {
  local part=$1 limit=${limits[$1]} left=$((total - SECONDS)) begin=$SECONDS code status note pid
  [ -z "$rehearsal$no_gpu" ] || limit=$((5 * limit)) # CPUs are slow, and other work may share them
  if [ "$left" -lt 10 ]; then
    printf '%s\tskipped\t-\t0\tno time was left\n' "$part" >>"$work/rows"
    return
  fi
  [ "$limit" -le "$left" ] || limit=$left
  timeout -k 5 "$limit" bash "$self" "$bundle" --run "$part" >"$work/$part.log" 2>&1 </dev/null &
  pid=$!
  # A process that hangs in the driver does not end by signals; nothing waits for it then.
  while kill -0 "$pid" 2>/dev/null && [ $((SECONDS - begin)) -lt $((limit + 12)) ]; do sleep 0.1; done
  if kill -0 "$pid" 2>/dev/null; then code=137; disown "$pid"; else wait "$pid"; code=$?; fi
  end_leftovers
  note=$(reason "$work/$part.note" 0)
  [ -n "$note" ] || note=$(reason "$work/$part.log" "$code")
  case $code in
    0) status=ok ;;
    77) status=skipped ;;
    78) status=refused ;;
    124) status=timeout ;;
    137) [ $((SECONDS - begin)) -ge "$limit" ] && status=timeout || status=failed ;;
    *) status=failed ;;
  esac
  [ "$status" != timeout ] || note="no end within $limit s; last: $note"
  [ -n "$note" ] || note="exit code $code and no word"
  printf '%s\t%s\t%s\t%s\t%s\n' "$part" "$status" "$code" "$((SECONDS - begin))" "$note" >>"$work/rows"
  printf 'check: %-15s %-8s %3s s  %s\n' "$part" "$status" "$((SECONDS - begin))" "${note:0:200}"
}

: >"$work/rows"
for part in "${parts[@]}"; do
  run "$part"
  # Each save keeps what is there, so that a limit from outside loses little.
  save
done

{
  echo
  echo "part            | status  | code |   s | what it says"
  while IFS=$'\t' read -r part status code seconds note; do
    printf '%-15s | %-7s | %4s | %3s | %s\n' "$part" "$status" "$code" "$seconds" "${note:0:300}"
  done <"$work/rows"
  echo "$SECONDS s in all; results in $out"
} | tee "$out/table.txt"
! grep -qP '^[^\t]*\t(failed|timeout)\t' "$work/rows"
