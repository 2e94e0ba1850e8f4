#!/usr/bin/env bash
# Starts a program on the machines of a host file (hosts.example) with MPICH 4:
#   scripts/cluster/mpich.sh HOSTS /shared/longnet/longnet train --config /shared/longnet.yaml --output /shared/runs/longnet
# Program, configuration, text and run directory lie at the same path on all machines; ssh reaches them without a password.
# MPICH's mpiexec does not notice a machine that falls silent: parallel.timeout_seconds ends the job. docs/clusters.md says more.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: ${0##*/} HOSTS PROGRAM [ARGUMENT...]" >&2; exit 2; }
hosts=$1; shift

# From "node1 slots=2", Open MPI's form, to "node1:2", MPICH's; a line without a number is one rank.
machines="" ranks=0
while read -r name slots _ || [ -n "$name" ]; do
  case $name in "" | \#*) continue ;; esac
  case $slots in slots=*) count=${slots#slots=} ;; *) count=1 ;; esac
  machines+=${machines:+,}$name:$count
  ranks=$((ranks + count))
done <"$hosts"

# Machines with several networks: HYDRA_IFACE is mpiexec's own; the ranks' is UCX_NET_DEVICES (MPICH over UCX, as Debian builds it) or
# FI_TCP_IFACE (over libfabric).
#   export HYDRA_IFACE=eth1 UCX_NET_DEVICES=eth1
# The whole environment goes to all ranks, so LONGNET_, NCCL_ and UCX_ variables need no option.
exec "$(command -v mpiexec.mpich || command -v mpiexec.hydra || command -v mpiexec)" -hosts "$machines" -n "$ranks" "$@"
