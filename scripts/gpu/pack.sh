#!/usr/bin/env bash
# Packs what a GPU machine without .NET, MPI and network needs for scripts/gpu/check.sh.
#   scripts/gpu/pack.sh OUT_DIR            makes OUT_DIR/gpu-bundle.tar.xz; OUT_DIR/bundle is the same unpacked
#   scripts/gpu/pack.sh --built OUT_DIR    only OUT_DIR/bundle, for this machine: links to what "dotnet build -c Release" made
# Needs the .NET SDK, xz and MPICH, which apt installs where it is missing. --built needs none of them.
set -euo pipefail

readonly largest=60000000 # bytes: 64 MiB travel, the repository's own files among them
say() { printf 'pack: %s\n' "$*" >&2; }
usage() { sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
built=""
if [ "${1:-}" = --built ]; then built=yes; shift; fi
if [ $# != 1 ] || [ "${1#-}" != "$1" ]; then usage; fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
project=$PWD bundle=$out/bundle
rm -rf "$bundle" "$out/gpu-bundle.tar.xz"
mkdir -p "$bundle/programs"

# link: the programs of this machine's build. They find their libraries and libtorch where they really lie.
link() {
  local file
  for file in src/Trainer/bin/Release/net10.0/longnet tests/Core.Tests/bin/Release/net10.0/LongNet.Core.Tests \
    tests/RankWorker/bin/Release/net10.0/longnet-rank-worker src/Trainer/bin/Release/net10.0/libLibTorchSharp.so; do
    [ -e "$file" ] || { say "$file is missing: build first, with dotnet build LongNet.Training.sln -c Release."; exit 2; }
    ln -s "$project/$file" "$bundle/programs/"
  done
}

# find_mpich: the library and the launcher's two programs.
find_mpich() {
  mpich=$(/sbin/ldconfig -p | sed -n 's/.*x86-64.* => \(.*\/libmpich\.so\.12\)$/\1/p' | head -1)
  launcher=$(command -v mpiexec.hydra || true)
  proxy=$(command -v hydra_pmi_proxy || true)
  [ -n "$mpich" ] && [ -n "$launcher" ] && [ -n "$proxy" ]
}

# publish: the programs with .NET in them, and without a libtorch.
publish() {
  local each
  for each in src/Trainer/LongNet.Trainer.csproj tests/Core.Tests/LongNet.Core.Tests.csproj tests/RankWorker/LongNet.RankWorker.csproj; do
    say "publishing $each"
    dotnet publish "$each" -c Release -p:TorchBackend=external --self-contained --artifacts-path "$out/build" \
      -o "$bundle/programs" --nologo -v quiet >&2
  done
  for each in longnet LongNet.Core.Tests longnet-rank-worker libLibTorchSharp.so; do
    [ -e "$bundle/programs/$each" ] || { say "publishing made no $each."; exit 1; }
  done
  if [ -e "$bundle/programs/libtorch_cpu.so" ]; then
    say "publishing brought a libtorch, so the programs would not take another."
    exit 1
  fi
  rm -f "$bundle"/programs/LongNet.*.xml "$bundle"/programs/longnet*.xml
}

# libraries_of FILE...: what files need, but for the C and C++ libraries, which every machine has.
libraries_of() {
  ldd "$@" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | sort -u |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|libgcc_s|libstdc\+\+|ld-linux-x86-64)\.so[.0-9]*$'
}

carry_mpich() {
  local library
  mkdir -p "$bundle/mpi"
  cp -L "$launcher" "$bundle/mpi/mpiexec.hydra"
  cp -L "$proxy" "$bundle/mpi/hydra_pmi_proxy"
  cp -L "$mpich" "$bundle/mpi/"
  libraries_of "$launcher" "$proxy" "$mpich" | while read -r library; do cp -L "$library" "$bundle/mpi/"; done
}

# .NET opens these by name for its hashes; check.sh takes them only where the machine has none.
carry_openssl() {
  local library found
  mkdir -p "$bundle/openssl"
  for library in libssl.so.3 libcrypto.so.3; do
    found=$(/sbin/ldconfig -p | sed -n "s/.*x86-64.* => \(.*\/$library\)$/\1/p" | head -1)
    if [ -n "$found" ]; then cp -L "$found" "$bundle/openssl/"; else say "$library is not here, so the bundle has none."; fi
  done
}

if [ -n "$built" ]; then
  link
else
  for tool in dotnet xz ldd; do
    command -v "$tool" >/dev/null || { say "$tool is missing."; exit 2; }
  done
  if ! find_mpich; then
    say "installing MPICH"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mpich; } >&2
    find_mpich || { say "MPICH's libmpich.so.12, mpiexec.hydra and hydra_pmi_proxy are not all here."; exit 2; }
  fi
  publish
  carry_mpich
  carry_openssl
fi
cp -R configs "$bundle/configs"
cp scripts/gpu/{check.sh,parts.sh,probe.py,losses.py,report.py,libtorch-symbols-needed.txt} benchmarks/peer/peer.py "$bundle/"
chmod +x "$bundle/check.sh"
git describe --always --dirty >"$bundle/COMMIT" 2>/dev/null || echo unknown >"$bundle/COMMIT"
[ -z "$built" ] || exit 0

say "compressing $(du -sh "$bundle" | cut -f1)"
tar -C "$bundle" --owner=0 --group=0 -cf - . | xz -3 -T2 >"$out/gpu-bundle.tar.xz"
size=$(stat -c %s "$out/gpu-bundle.tar.xz")
say "$out/gpu-bundle.tar.xz: $size bytes, of commit $(cat "$bundle/COMMIT")"
if [ "$size" -ge "$largest" ]; then
  say "that is too much: at most $((largest - 1)) bytes travel."
  exit 1
fi
