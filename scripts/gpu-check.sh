#!/usr/bin/env bash
# Runs the GPU tests and the collectives over NCCL, measures attention on the GPU, and writes all into a report.
#   scripts/gpu-check.sh                  builds first: for the libtorch in LONGNET_LIBTORCH, or without it for CUDA's from NuGet
#   scripts/gpu-check.sh --publish DIR    only makes DIR: the programs with .NET in them, for a machine that has no SDK
#   scripts/gpu-check.sh --prebuilt DIR   runs the programs of such a folder, on the libtorch in LONGNET_LIBTORCH
#   --report FILE                         instead of docs/gpu-report.md
# Exit codes: 0 all is well; 1 a test or a measurement failed; 2 there is no usable GPU here, or something else is missing.
set -euo pipefail
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'gpu-check: %s\n' "$*" >&2; }
usage() { sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2; exit 2; }

# Paths are the caller's, not the repository's.
absolute() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$here" "$1" ;; esac; }

programs="" publish="" report=docs/gpu-report.md
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || usage
  case $1 in
    --publish) publish=$(absolute "$2") ;;
    --prebuilt) programs=$(absolute "$2") ;;
    --report) report=$(absolute "$2") ;;
    *) usage ;;
  esac
  shift 2
done
[ -z "$publish" ] || [ -z "$programs" ] || usage

# build FOLDER BACKEND [OPTION]: all programs into one folder. Intermediate files lie apart from those of every other kind of build.
build() {
  local folder=$1 backend=$2 variant=$2${3:-} project
  shift 2
  if ! command -v dotnet >/dev/null; then
    say "the .NET SDK is missing: install it, or bring a folder that --publish made elsewhere and name it with --prebuilt."
    exit 2
  fi
  for project in src/Trainer/LongNet.Trainer.csproj tests/Core.Tests/LongNet.Core.Tests.csproj tests/RankWorker/LongNet.RankWorker.csproj; do
    if ! dotnet publish "$project" -c Release -p:TorchBackend="$backend" "$@" \
      --artifacts-path "artifacts/gpu-check/build-$variant" -o "$folder" --nologo -v quiet >&2; then
      say "the programs cannot be built for TorchBackend=$backend; where a package is missing, set LONGNET_LIBTORCH to the folder of a libtorch with CUDA."
      exit 2
    fi
  done
}

if [ -n "$publish" ]; then
  build "$publish" external --self-contained
  say "$publish is ready: take it and this checkout along, and run scripts/gpu-check.sh --prebuilt $publish there, with LONGNET_LIBTORCH set."
  exit 0
fi

if [ -z "$programs" ]; then
  if [ -n "${LONGNET_LIBTORCH:-}" ]; then backend=external; else backend=cuda; fi
  programs=artifacts/gpu-check/programs-$backend
  build "$programs" "$backend"
fi
longnet=$programs/longnet tests=$programs/LongNet.Core.Tests worker=$programs/longnet-rank-worker
for program in "$longnet" "$tests" "$worker"; do
  [ -x "$program" ] || { say "$program is missing: name a folder that --publish made."; exit 2; }
done

parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

# Tells in one sentence where there is no libtorch or no GPU.
"$longnet" bench attention --device cuda --lengths 64 --segment-lengths 64 --dilation-rates 1 --rounds 1 >/dev/null || {
  code=$?
  [ "$code" = 2 ] || { say "attention on the GPU ended with code $code before any test ran."; exit 1; }
  exit 2
}

failed=0
"$tests" -noColor -class LongNet.Core.Tests.Attention.CudaAttentionTests \
  -class LongNet.Core.Tests.Attention.CudaKernelTests -result-xml "$parts/tests.xml" </dev/null || failed=$?
if [ ! -s "$parts/tests.xml" ]; then
  say "the tests ended with code $failed and wrote no report."
  exit 1
fi
total() { grep -o '<assembly [^>]*' "$parts/tests.xml" | grep -o " $1=\"[0-9]*\"" | grep -o '[0-9]*'; }
passed=$(total passed) skipped=$(total skipped)
if [ "$failed" != 0 ]; then
  say "of the GPU tests $(total failed) failed, so nothing is measured."
  exit 1
fi
if [ "$skipped" != 0 ] || [ "$passed" = 0 ]; then
  say "$skipped GPU tests were skipped and $passed ran, so there is no usable GPU here."
  exit 2
fi

# One process alone joins an NCCL communicator of one rank. Where there are more GPUs and a launcher, every GPU gets a rank.
gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ' || true)
ranks="1 rank"
"$worker" process-group-cuda </dev/null || { say "the $passed GPU tests passed, but not the collectives over NCCL, at 1 rank."; exit 1; }
if [ "$gpus" -gt 1 ] && command -v mpiexec >/dev/null; then
  (. scripts/mpi-environment.sh && exec mpiexec -n "$gpus" "$worker" process-group-cuda </dev/null) || {
    say "the $passed GPU tests passed, but not the collectives over NCCL, at $gpus ranks."
    exit 1
  }
  ranks="1 and $gpus ranks"
fi

measure() {
  local code=0
  "$longnet" bench attention --device cuda --longest-dense 262144 --markdown "$parts/$1.md" --dtype "$@" || code=$?
  [ "$code" = 0 ] || { say "the $passed GPU tests passed, but measuring $1 ended with code $code, so there is no report."; exit 1; }
}
measure bfloat16 --lengths 8192,16384,32768,65536,131072,262144,524288,1048576
measure float32 --lengths 8192,32768,131072

mkdir -p "$(dirname "$report")"
{
  echo "# GPU report"
  echo
  commit=$(git describe --always --dirty 2>/dev/null || true)
  echo "Written by scripts/gpu-check.sh on $(date -u +%Y-%m-%d)${commit:+, of commit $commit}. All $passed GPU tests passed. Collectives over NCCL keep their contract at $ranks."
  for part in bfloat16 float32; do
    echo
    cat "$parts/$part.md"
  done
} >"$report"
say "$passed GPU tests passed; $report has the times."
