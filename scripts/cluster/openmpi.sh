#!/usr/bin/env bash
# Starts a program on the machines of a host file (hosts.example) with Open MPI 4:
#   scripts/cluster/openmpi.sh HOSTS /shared/longnet/longnet train --config /shared/longnet.yaml --output /shared/runs/longnet
# Program, configuration, text and run directory lie at the same path on all machines; ssh reaches them without a password.
# Every setting can be given from outside; docs/clusters.md says more.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: ${0##*/} HOSTS PROGRAM [ARGUMENT...]" >&2; exit 2; }
hosts=$1; shift

# Root in containers, more ranks than cores, and no binding: longnet shares out a machine's cores among its ranks.
# shellcheck source=scripts/mpi-environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/../mpi-environment.sh"

# A machine that falls silent is noticed after time + intvl * probes = 11 s. By default mpiexec waits for it for ever. Keep
# parallel.timeout_seconds above this: it names the rank, but cannot end an mpiexec that still waits.
export OMPI_MCA_oob_tcp_keepalive_time=${OMPI_MCA_oob_tcp_keepalive_time:-5}
export OMPI_MCA_oob_tcp_keepalive_intvl=${OMPI_MCA_oob_tcp_keepalive_intvl:-2}
export OMPI_MCA_oob_tcp_keepalive_probes=${OMPI_MCA_oob_tcp_keepalive_probes:-3}

# Seconds from SIGTERM to SIGKILL for ranks when the job ends, to write what they know; 1 by default. SIGTERM itself reaches them as much
# later. Where it is SIGTERM that preempts jobs, give longer than a step and a checkpoint take; a job that loses a rank then ends as much
# later, twice. SIGUSR1 to mpiexec needs none of this: it reaches ranks at once, and nothing kills them.
export OMPI_MCA_odls_base_sigkill_timeout=${OMPI_MCA_odls_base_sigkill_timeout:-2}

# Machines with several networks: name the one that all share, as an interface or as a subnet. "oob" is mpiexec's own traffic.
#   export OMPI_MCA_btl_tcp_if_include=10.1.0.0/16 OMPI_MCA_oob_tcp_if_include=10.1.0.0/16

# Open MPI hands its own settings on to other machines; these it must be told of.
forwarded=()
for name in $(compgen -e); do
  case $name in LONGNET_* | NCCL_* | UCX_* | CUDA_VISIBLE_DEVICES) forwarded+=(-x "$name") ;; esac
done

# Without -n, as many ranks as the file has slots.
exec "$(command -v mpiexec.openmpi || command -v mpiexec)" --hostfile "$hosts" "${forwarded[@]}" "$@"
