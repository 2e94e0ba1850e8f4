# shellcheck shell=bash disable=SC2034  # check.sh uses the lists
# Sourced by check.sh, which sets $bundle and $python: the parts. Each runs in a process of its own, in the folder of the logs.
# Exit codes: 0 ok, 77 skipped, 78 refused, anything else failed. PART.note, else the log's last line, says why; PART.json has numbers.

all_parts=(facts symbols smoke train tests options nccl1 staged2 bench-step bench-attention million resume nccl2 profile peer mpi2 fill nogpu)
declare -A limits=([facts]=60 [symbols]=50 [smoke]=45 [train]=75 [tests]=90 [options]=75 [nccl1]=40 [staged2]=60 [bench-step]=80 [bench-attention]=60
  [million]=80 [resume]=60 [nccl2]=50 [profile]=50 [peer]=110 [mpi2]=40 [fill]=50 [nogpu]=30)
: "${bundle:?}" "${python:?}"
longnet=$bundle/programs/longnet tests=$bundle/programs/LongNet.Core.Tests worker=$bundle/programs/longnet-rank-worker
probe=$bundle/probe.py losses=$bundle/losses.py

skip() { echo "$*"; exit 77; }
rehearsal() { [ -n "${LONGNET_GPU_CHECK_REHEARSAL:-}" ]; }
# gpu_needed WHAT: skips where there is none. A rehearsal has CPUs in its place, but not for all.
gpu_needed() {
  [ -z "${LONGNET_GPU_CHECK_REASON:-}" ] || skip "$LONGNET_GPU_CHECK_REASON"
  if rehearsal && [ "${1:-}" = real ]; then skip "CPUs cannot stand in for the GPU here"; fi
}
has_gpu() { [ -z "${LONGNET_GPU_CHECK_REASON:-}" ] && ! rehearsal; }

# device gpu|cpu: the options of longnet, in the array $on. Without a GPU the default device is the CPU.
device() {
  on=()
  has_gpu || return 0
  if [ "$1" = gpu ]; then on=(--set runtime.device=cuda); else on=(--set runtime.device=cpu); fi
}

# train NAME gpu|cpu CONFIGURATION [OPTION...]: the run runs/NAME on the fixed text, its output in NAME.txt. $text is another text.
train() {
  local name=$1 on
  device "$2"
  local config=$3 small=()
  shift 3
  if ! has_gpu && [ "$config" = quickstart ]; then small=(--set model.layers=1 --set training.sequence_length=256); fi
  "${launch[@]}" "$longnet" train --config "$bundle/configs/$config.yaml" --set "data.path=[${text:-$bundle/configs/text/*.txt}]" "${on[@]}" \
    --set evaluation.every_steps=0 --set logging.every_steps=1 --output "runs/$name" "${small[@]}" "$@" >"$name.txt" 2>&1 </dev/null
}
launch=()

# ranks COUNT: sets $launch to MPICH of the bundle, by the loopback's address as the machine may not know its own name; else to this machine's.
ranks() {
  # For ranks that share a GPU each rank is a host to NCCL.
  # shellcheck disable=SC2016  # each rank's shell expands it
  local shell='[ -z "${LONGNET_NCCL_SHARED_GPU:-}" ] || export NCCL_HOSTID=rank${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-0}}; exec "$@"'
  if [ -x "$bundle/mpi/mpiexec.hydra" ]; then
    export LONGNET_MPI_LIBRARY=$bundle/mpi/libmpich.so.12
    launch=(env "LD_LIBRARY_PATH=$bundle/mpi${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$bundle/mpi/mpiexec.hydra" -launcher fork -iface lo -n "$1" bash -c "$shell" rank)
  elif command -v mpiexec >/dev/null; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
    launch=(mpiexec -n "$1" bash -c "$shell" rank)
  else
    skip "there is no mpiexec, neither in the bundle nor here"
  fi
}

# compare PART LINE...: "what|reference run|run|tolerance at the first step|at the last"; writes PART.json and PART.note.
compare() {
  local part=$1
  shift
  "$python" "$losses" "$PWD" "$part" "$@"
}

# with_memory NAME COMMAND...: runs it and writes the GPU's most used memory in MiB to NAME.mib.
with_memory() {
  local name=$1 pid="" code=0
  shift
  if has_gpu; then
    nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 250 >"$name.smi" 2>/dev/null &
    pid=$!
  fi
  "$@" || code=$?
  [ -z "$pid" ] || { kill "$pid" 2>/dev/null; sort -n "$name.smi" | tail -1 >"$name.mib"; }
  return "$code"
}

part_facts() {
  local command
  for command in "uname -a" "cat /etc/os-release" nproc "free -g" "df -h / /tmp /dev/shm" "ulimit -a" "ldd --version" "g++ --version" "nvcc --version" \
    nvidia-smi "nvidia-smi -q -d CLOCK,POWER,COMPUTE" "nvidia-smi topo -m" "ip addr" "cat /etc/hosts"; do
    printf '\n$ %s\n' "$command"
    eval "$command" 2>&1 | head -120
  done
  printf '\nLONGNET_LIBTORCH=%s\nLONGNET_NCCL_LIBRARY=%s\nLD_LIBRARY_PATH=%s\n' "${LONGNET_LIBTORCH:-}" "${LONGNET_NCCL_LIBRARY:-}" "${LD_LIBRARY_PATH:-}"
  exec "$python" "$probe" facts "$PWD"
}

part_symbols() { exec "$python" "$probe" symbols "$PWD" "$bundle"; }

# Attention once, and two steps of a small model.
part_smoke() {
  local name=cpu loss
  if has_gpu; then name=cuda; fi
  "$longnet" bench attention --device $name --lengths 64 --segment-lengths 64 --dilation-rates 1 --rounds 1 || exit
  train smoke gpu quickstart --set training.steps=2 || { cat smoke.txt; exit 1; }
  cat smoke.txt
  loss=$(sed -n 's/.*"step":2,"loss":\([0-9.]*\).*/\1/p' runs/smoke/metrics.jsonl)
  [ -n "$loss" ] || { echo "the run of 2 steps wrote no loss"; exit 1; }
  echo "attention and 2 training steps on $name; loss ${loss:0:7}"
}

# 20 steps of one model on CPU and GPU.
part_train() {
  gpu_needed
  local type failed=""
  train train-cpu cpu quickstart --set training.steps=20 || { cat train-cpu.txt; echo "the run on CPUs failed"; exit 1; }
  for type in float32 bfloat16 float16; do
    train "train-$type" gpu quickstart --set training.steps=20 --set precision.compute=$type || { tail -30 "train-$type.txt"; failed=yes; }
  done
  compare train "float32|train-cpu|train-float32|1e-4|1e-2" "bfloat16|train-cpu|train-bfloat16|1e-2|5e-2" "float16|train-cpu|train-float16|1e-2|5e-2" || exit
  [ -z "$failed" ]
}

part_tests() {
  [ -n "${LONGNET_GPU_CHECK_REASON:-}" ] || gpu_needed real
  local code=0 classes='*Cuda*'
  has_gpu || classes='*CudaAttentionTests' # enough to see that they skip
  "$tests" -noColor -reporter verbose -class "$classes" -result-xml tests.xml || code=$?
  exec "$python" "$probe" tests "$PWD" "$code"
}

# 3 steps with each option, on CPU and GPU, in groups side by side.
part_options() {
  gpu_needed
  local -A settings=(
    [recompute-block]="memory.recompute=block"
    [recompute-full]="memory.recompute=full"
    [tiles]="memory.recompute=full memory.tile_rows=256 memory.loss_rows=256"
    [offload]="memory.recompute=full memory.offload=disk"
    [dropout]="model.dropout=0.1"
    [rope]="model.positions=rope"
    [bias]="model.attention.relative_position_bias=true"
    [sub-layer-norm]="model.sub_layer_norm=true"
    [blocked-detached]="model.attention.head_offsets=blocked model.attention.mixing_gradient=detached"
    [accumulation]="training.micro_batch_size=1"
  )
  # Only on the GPU, against the plain run on CPUs.
  local -A on_gpu=([tf32]="precision.tf32=true" [flash]="precision.compute=bfloat16 runtime.cuda_attention=flash"
    [cudnn]="precision.compute=bfloat16 runtime.cuda_attention=cudnn" [efficient]="runtime.cuda_attention=efficient" [math]="runtime.cuda_attention=math")
  local name setting options lines=("plain|option-plain-cpu|option-plain-gpu|1e-4|1e-3") jobs=() count=0
  settings[plain]="training.steps=3"
  for name in "${!settings[@]}"; do
    jobs+=("$name cpu ${settings[$name]}" "$name gpu ${settings[$name]}")
    [ "$name" = plain ] || lines+=("$name|option-$name-cpu|option-$name-gpu|1e-4|1e-3")
  done
  if has_gpu; then
    for name in "${!on_gpu[@]}"; do
      jobs+=("$name gpu ${on_gpu[$name]}")
      case $name in efficient | math) lines+=("$name|option-plain-cpu|option-$name-gpu|1e-4|1e-3") ;; *) lines+=("$name|option-plain-cpu|option-$name-gpu|1e-2|2e-2") ;; esac
    done
  fi
  for options in "${jobs[@]}"; do
    # shellcheck disable=SC2086  # settings are words
    set -- $options
    local sets=()
    for setting in "${@:3}"; do sets+=(--set "$setting"); done
    train "option-$1-$2" "$2" quickstart --set training.steps=3 --set training.batch_size=2 --set runtime.threads="${LONGNET_GPU_CHECK_THREADS:-3}" "${sets[@]}" &
    count=$((count + 1))
    [ $((count % 5)) != 0 ] || wait
  done
  wait
  compare options "${lines[@]}"
}

part_nccl1() {
  gpu_needed real
  local gpus
  export NCCL_DEBUG=WARN
  "$worker" process-group-cuda || exit
  gpus=$(nvidia-smi --list-gpus | grep -c '^GPU ')
  if [ "$gpus" -gt 1 ]; then
    ranks "$gpus"
    "${launch[@]}" "$worker" process-group-cuda || exit
    echo "the collectives keep their contract at 1 rank, and at $gpus ranks on $gpus GPUs"
  else
    echo "the collectives keep their contract at 1 rank"
  fi
}

part_mpi2() {
  ranks 2
  "${launch[@]}" "$worker" process-group || exit
  echo "the collectives keep their contract at 2 ranks on CPUs"
}

# two_ranks NAME [OPTION...]: 5 steps of ranks-agree.
two_ranks() {
  local name=$1
  shift
  train "$name" gpu ranks-agree --set training.steps=5 "$@" || { echo "$name:"; tail -30 "$name.txt"; }
}

# Two ranks on one GPU, with collectives over the host.
part_staged2() {
  gpu_needed
  local host=()
  ! has_gpu || host=(--set parallel.device_transport=host)
  two_ranks one
  ranks 2
  two_ranks data "${host[@]}" --set parallel.data=2 --set parallel.sequence=1 &
  two_ranks sequence "${host[@]}" --set parallel.data=1 --set parallel.sequence=2 &
  two_ranks sharded "${host[@]}" --set parallel.data=1 --set parallel.sequence=2 --set parallel.shard_optimizer=true &
  wait
  compare staged2 "data 2|one|data|1e-5|1e-5" "sequence 2|one|sequence|1e-5|1e-5" "sequence 2, sharded optimizer|one|sharded|1e-5|1e-5"
}

# Two ranks on one GPU over NCCL, which takes them for two hosts. NVIDIA promises nothing of that.
part_nccl2() {
  gpu_needed real
  local code
  export NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1 NCCL_DEBUG=INFO NCCL_DEBUG_FILE=$PWD/nccl2-%p.txt LONGNET_NCCL_SHARED_GPU=1
  two_ranks nccl-one
  ranks 2
  "${launch[@]}" "$worker" process-group-cuda 2>&1 | tee nccl2.txt
  code=${PIPESTATUS[0]}
  if [ "$code" != 0 ]; then
    if grep -hm1 -iE 'use the same GPU|Duplicate GPU' nccl2.txt nccl2-*.txt >nccl2.note 2>/dev/null; then exit 78; fi
    rm -f nccl2.note
    exit "$code"
  fi
  two_ranks nccl-two --set parallel.device_transport=nccl --set parallel.data=1 --set parallel.sequence=2
  compare nccl2 "contract ok; sequence 2 over NCCL|nccl-one|nccl-two|1e-5|1e-5"
}

# A run that is killed and continued; and checkpoints that change the device.
part_resume() {
  gpu_needed
  local common=(--set training.steps=6 --set checkpoint.every_steps=3 --set checkpoint.asynchronous=false --set model.dropout=0.1) code=0
  train whole gpu quickstart "${common[@]}" || { cat whole.txt; exit 1; }
  train whole-cpu cpu quickstart "${common[@]}" || { cat whole-cpu.txt; exit 1; }
  LONGNET_FAULT=kill:0:5:backward train killed gpu quickstart "${common[@]}" || code=$?
  [ "$code" = 137 ] || { tail killed.txt; echo "the run that had to be killed ended with code $code"; exit 1; }
  train killed gpu quickstart "${common[@]}" --resume auto || { cat killed.txt; exit 1; }
  train gpu-to-cpu cpu quickstart "${common[@]}" --resume runs/whole/checkpoints/step-00000003 || cat gpu-to-cpu.txt
  train cpu-to-gpu gpu quickstart "${common[@]}" --resume runs/whole-cpu/checkpoints/step-00000003 || cat cpu-to-gpu.txt
  compare resume "killed, resumed on the GPU|whole|killed|1e-5|1e-5" "GPU's checkpoint on CPU|whole|gpu-to-cpu|1e-4|1e-3" "CPU's checkpoint on GPU|whole-cpu|cpu-to-gpu|1e-4|1e-3"
}

# Two steps over a sequence of 1,048,576 tokens; of 16,384 in a rehearsal.
part_million() {
  gpu_needed
  local text=$PWD/text.txt length=1048576 sets=() seconds
  if rehearsal; then length=16384 sets=(--set model.layers=1 --set model.d_model=48 --set model.feed_forward=64); fi
  for _ in 1 2 3 4 5; do cat "$bundle"/configs/text/*.txt; done >"$text"
  with_memory million train million gpu longnet --set training.steps=2 --set training.sequence_length=$length --set training.batch_size=1 \
    --set data.validation_fraction=0 --set precision.compute=bfloat16 --set memory.recompute=full --set checkpoint.every_steps=0 \
    "${sets[@]}" || { cat million.txt; exit 1; }
  tail -20 million.txt
  "$python" "$losses" "$PWD" million-step
  seconds=$(cat million.note)
  echo "$seconds; most GPU memory $(cat million.mib 2>/dev/null || echo unknown) MiB" | tee million.note
}

# step NAME [OPTION...]: longnet bench step of the paper's shape on one GPU; what it says goes to $part_name.said.
step() {
  local name=$1 on line sets=()
  shift
  device gpu
  ! rehearsal || sets=(--set model.layers=1 --set model.d_model=48 --set model.feed_forward=64 --set training.sequence_length=4096)
  with_memory "$name" "$longnet" bench step --config "$bundle/configs/longnet.yaml" --set "data.path=[$bundle/configs/text/*.txt]" "${on[@]}" \
    --steps 3 "${sets[@]}" "$@" >"$name.txt" 2>&1 </dev/null
  local code=$?
  cat "$name.txt"
  line=$(grep -m1 'ms per step' "$name.txt") || line=$(grep -vE '^\s*(at |$)' "$name.txt" | tail -1)
  echo "$name: ${line:0:160}; $(cat "$name.mib" 2>/dev/null || echo unknown) MiB" >>"$part_name.said"
  return $code
}
# told PART: the lines of all steps as its note.
told() {
  tr '\n' ';' <"$1.said" | sed 's/;$//; s/;/; /g' >"$1.note"
  cat "$1.said"
}

part_bench-step() {
  gpu_needed
  local failed="" micro part_name=bench-step
  for micro in 1 2; do
    step "bf16 micro $micro" --set precision.compute=bfloat16 --set training.batch_size=$micro --set training.micro_batch_size=$micro || failed=yes
  done
  if has_gpu; then
    step "tf32 micro 1" --set precision.tf32=true --set training.batch_size=1 --set training.micro_batch_size=1 || failed=yes
  fi
  told bench-step
  [ -z "$failed" ]
}

# What the fused kernels bring, and the choice of the attention's kernel.
part_profile() {
  gpu_needed
  local failed="" part_name=profile bf16=(--set precision.compute=bfloat16 --set training.batch_size=1 --set training.micro_batch_size=1)
  LONGNET_CUDA_KERNELS=off step "own kernels off" "${bf16[@]}" || failed=yes
  LONGNET_CUDA_ATTENTION=flash step "flash" "${bf16[@]}" || failed=yes
  LONGNET_CUDA_ATTENTION=cudnn step "cudnn" "${bf16[@]}" || failed=yes
  told profile
  [ -z "$failed" ]
}

part_bench-attention() {
  gpu_needed
  local kernel failed="" name=cuda lengths=8192,32768,131072,1048576 dense=131072 kernels=(auto flash)
  if rehearsal; then name=cpu lengths=4096 dense=4096 kernels=(auto); fi
  for kernel in "${kernels[@]}"; do
    LONGNET_CUDA_ATTENTION=$kernel "$longnet" bench attention --device $name --dtype bfloat16 --lengths "$lengths" --longest-dense "$dense" --rounds 3 \
      --json "attention-$kernel.json" --markdown "attention-$kernel.md" || failed=yes
  done
  "$python" "$probe" attention "$PWD" "${kernels[@]}"
  [ -z "$failed" ]
}

# PyTorch alone, in the environment as it was before check.sh.
part_peer() {
  gpu_needed real
  export LD_LIBRARY_PATH=$LONGNET_GPU_CHECK_LIBRARY_PATH
  exec "$python" -u "$bundle/peer.py" all --seconds 95 --out peer.json
}

# user_error CODE NAME PART: whether the run NAME, which ended with CODE, said one sentence and no stack trace. A run's header does not count.
user_error() {
  local code=$1 name=$2 sentences count
  cat "$name.txt"
  sentences=$(grep '^longnet: ' "$name.txt" | grep -v ' parameters, ')
  count=$(grep -c . <<<"$sentences")
  if [ "$code" = 2 ] && [ "$count" = 1 ] && ! grep -qE '^\s+at |Unhandled exception' "$name.txt"; then
    echo "$sentences" >"$3.note"
  else
    echo "$name ended with code $code and $count sentences: $(grep -vE '^\s*(at |$)' "$name.txt" | tail -1 | cut -c1-300)" | tee "$3.note"
    return 1
  fi
}

# Another process has nearly all of the GPU's memory.
part_fill() {
  gpu_needed real
  local code=0 _
  (export LD_LIBRARY_PATH=$LONGNET_GPU_CHECK_LIBRARY_PATH; exec "$python" -u "$probe" hold 0.95 >hold.txt 2>&1) &
  for _ in $(seq 1 250); do
    [ ! -s hold.txt ] || break
    sleep 0.1
  done
  cat hold.txt
  grep -q ^held hold.txt || { echo "the GPU's memory was not filled"; exit 1; }
  train filled gpu longnet --set training.steps=1 --set training.batch_size=1 || code=$?
  kill $! 2>/dev/null
  user_error "$code" filled fill
}

# The device is asked for and is not there; with auto, CPUs train.
part_nogpu() {
  local code=0 common=(--config "$bundle/configs/ranks-agree.yaml" --set "data.path=[$bundle/configs/text/*.txt]" --set training.steps=2 --set evaluation.every_steps=0)
  export CUDA_VISIBLE_DEVICES=""
  "$longnet" train "${common[@]}" --output runs/no-gpu --set runtime.device=cuda >no-gpu.txt 2>&1 || code=$?
  user_error "$code" no-gpu nogpu || exit 1
  "$longnet" train "${common[@]}" --output runs/auto >auto.txt 2>&1 || { tail auto.txt | tee nogpu.note; exit 1; }
  grep -q '"step":2' runs/auto/metrics.jsonl || { echo "auto did not train 2 steps" | tee nogpu.note; exit 1; }
}
