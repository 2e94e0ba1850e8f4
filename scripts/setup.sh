#!/usr/bin/env bash
# Installs what the project needs beside the .NET SDK: an MPI. Idempotent; the other scripts call it.
#   scripts/setup.sh            Open MPI, unless some mpiexec is there
#   scripts/setup.sh --tests    both Open MPI and MPICH, as the tests run over each, and ip, which makes several hosts of this one
#   scripts/setup.sh --benchmarks    likewise, with a C compiler and their headers, for scripts/bench-collectives.sh
set -euo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }

if ! command -v dotnet >/dev/null; then
  say "the .NET SDK 10 is missing: install the package dotnet-sdk-10.0, then run this again."
  exit 2
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root=(sudo -n); else as_root=(false); fi
fi

# install NAME APT DNF ZYPPER PACMAN BREW: by whichever package manager is here.
install() {
  local name=$1 package="" command=()
  if command -v apt-get >/dev/null; then
    package=$2; command=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends)
    "${as_root[@]}" apt-get update -q >/dev/null 2>&1 || true
  elif command -v dnf >/dev/null; then package=$3; command=("${as_root[@]}" dnf install -y)
  elif command -v zypper >/dev/null; then package=$4; command=("${as_root[@]}" zypper --non-interactive install)
  elif command -v pacman >/dev/null; then package=$5; command=("${as_root[@]}" pacman -S --noconfirm)
  elif command -v brew >/dev/null; then package=$6; command=(brew install)
  fi
  # shellcheck disable=SC2086  # a package list is several words
  if [ -n "$package" ] && "${command[@]}" $package >/dev/null; then
    say "installed $name ($package)."
  else
    say "$name is missing and could not be installed from here: install the package ${package:-$2} as root, then run this again."
    return 1
  fi
}

if [ "${1:-}" = --tests ] || [ "${1:-}" = --benchmarks ]; then
  # A test of a missing MPI is skipped, and counted so.
  command -v mpiexec.openmpi >/dev/null || install "Open MPI" openmpi-bin openmpi openmpi openmpi open-mpi || true
  command -v mpiexec.mpich >/dev/null || command -v mpiexec.hydra >/dev/null || install MPICH mpich mpich mpich mpich mpich || true
  # Several hosts are network namespaces, which only Linux has.
  [ "$(uname)" != Linux ] || command -v ip >/dev/null || install ip iproute2 iproute iproute2 iproute2 iproute2 || true
  # Open MPI stays what plain mpiexec starts.
  if [ -x /usr/bin/mpiexec.openmpi ] && command -v update-alternatives >/dev/null; then
    "${as_root[@]}" update-alternatives --set mpirun /usr/bin/mpirun.openmpi >/dev/null 2>&1 || true
  fi
  if [ "$1" = --benchmarks ]; then
    command -v mpicc.openmpi >/dev/null || install "Open MPI's compiler" "gcc libc6-dev libopenmpi-dev" "gcc openmpi-devel" "gcc openmpi-devel" "gcc openmpi" open-mpi || true
    command -v mpicc.mpich >/dev/null || install "MPICH's compiler" "gcc libc6-dev libmpich-dev" "gcc mpich-devel" "gcc mpich-devel" "gcc mpich" mpich || true
  fi
elif ! command -v mpiexec >/dev/null; then
  install "Open MPI" openmpi-bin openmpi openmpi openmpi open-mpi || exit 2
fi
