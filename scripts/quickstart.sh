#!/usr/bin/env bash
# From a machine with only the .NET SDK to a LongNet that has learned something: sets up, builds, and trains
# configs/quickstart.yaml on two ranks. Run again, it goes on from the last checkpoint.
# Further arguments go to "longnet train": scripts/quickstart.sh --steps 5 --output runs/try
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh
# shellcheck source=scripts/mpi-environment.sh
. scripts/mpi-environment.sh
dotnet build src/Trainer/LongNet.Trainer.csproj -c Release --nologo -v quiet
mpiexec -n 2 src/Trainer/bin/Release/net10.0/longnet train --config configs/quickstart.yaml --resume auto "$@"
