# shellcheck shell=bash
# Sourced: what Open MPI needs in mpiexec's own environment. MPICH ignores all of it.
if [ "$(id -u)" = 0 ]; then
  # Open MPI refuses to run as root (containers) unless told twice.
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# More ranks than cores are allowed, and no rank is bound to one core: longnet shares out the cores itself.
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
