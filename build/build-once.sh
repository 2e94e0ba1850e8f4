#!/usr/bin/env bash
# build-once.sh PROJECT CONFIGURATION [TORCH_BACKEND]
# Every rank that mpiexec starts as "dotnet run" comes through here. The first one of a launch builds, under a lock; the others
# wait for it and find its stamp. Without this, ranks would write the same files at once.
set -euo pipefail
project=$(realpath "$1") configuration=$2 backend=${3:-}

folder=$(dirname "$project")/obj
mkdir -p "$folder"
stamp=$folder/launch-$configuration.stamp
exec 9>"$folder/launch.lock"
flock 9

# One launch: this boot of this machine, and the launcher's process id and start time, found among this process's ancestors. Under
# srun, Slurm's own number, which is the same on all machines.
launch=""
pid=$$
while [ "$pid" -gt 1 ]; do
  # Fields of /proc/PID/stat after the name, which may hold blanks: state, parent, …; the start time is the 22nd of all.
  stat=$(cat "/proc/$pid/stat" 2>/dev/null) || break
  name=${stat#*(} name=${name%)*}
  read -r -a fields <<<"${stat##*) }"
  case $name in
    mpiexec* | mpirun* | prterun* | orted | prted | hydra_pmi_proxy)
      launch="$(cat /proc/sys/kernel/random/boot_id) $pid ${fields[19]}"; break ;;
    slurmstepd)
      launch="${SLURM_CLUSTER_NAME:-} ${SLURM_JOB_ID:-} ${SLURM_RESTART_COUNT:-0} ${SLURM_STEP_ID:-}"; break ;;
  esac
  pid=${fields[1]}
done
if [ -z "$launch" ] && [ -n "${PMIX_NAMESPACE:-}${SLURM_JOB_ID:-}" ]; then
  launch="${PMIX_NAMESPACE:-} ${PMIX_SERVER_URI4:-${PMIX_SERVER_URI3:-}} ${SLURM_JOB_ID:-} ${SLURM_STEP_ID:-}"
fi
launch="$launch $backend"

# Where launches cannot be distinguished, every rank builds in its turn, and all but the first find nothing to do.
case $(cat "$stamp" 2>/dev/null) in
  "built $launch") [ "$launch" = " $backend" ] || exit 0 ;;
  "failed $launch") [ "$launch" = " $backend" ] || { echo "another rank's build failed; its messages tell why." >&2; exit 1; } ;;
esac

if env -u OMPI_COMM_WORLD_SIZE -u PMI_SIZE -u PMIX_RANK dotnet build "$project" -c "$configuration" ${backend:+-p:TorchBackend=$backend} --nologo -v quiet 9>&-; then
  echo "built $launch" >"$stamp"
else
  echo "failed $launch" >"$stamp"
  exit 1
fi
