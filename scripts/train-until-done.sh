#!/usr/bin/env bash
# Starts a training command again and again until it has done its last step:
#   scripts/train-until-done.sh [OPTION...] -- mpiexec -n 2 longnet train --config longnet --output runs/longnet --resume auto
#   --run DIR           the run directory; a start that brought a new checkpoint there was no failure
#   --max-failures N    failures in a row without a new checkpoint, after which it gives up (default 3)
# By the command's exit code: 0 it is done; 75 it stopped early, and is started again; 2 is a mistake to mend, and ends this too; any other
# is a failure. A signal is handed on to the command, and this ends with the command's code.
set -euo pipefail

say() { printf 'train-until-done: %s\n' "$*" >&2; }
usage() { sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2; exit 2; }

most=3 run=""
while [ $# -gt 0 ]; do
  case $1 in
    --run) [ $# -ge 2 ] || usage; run=$2; shift 2 ;;
    --max-failures) [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || usage; most=$2; shift 2 ;;
    --) shift; break ;;
    *) usage ;;
  esac
done
[ $# -ge 1 ] || usage

# A process group of its own: Ctrl+C reaches the command once, through here, and not a second time from the terminal.
set -m
child="" pending="" signalled="" interrupted=""
hand_on() { if [ -n "$child" ] && [ -n "$pending" ]; then kill -s "$pending" "$child" 2>/dev/null || true; pending=""; fi; }
for name in TERM INT HUP USR1 USR2; do
  # shellcheck disable=SC2064  # the name is this one
  trap "pending=$name signalled=$name interrupted=1; hand_on" "$name"
done

# The newest checkpoint's step; 0 for none. Those that are not whole, or damaged, have other names.
newest() {
  local each best=0
  for each in "$run"/checkpoints/step-*; do
    each=${each##*/step-}
    if [[ $each =~ ^[0-9]{8,18}$ ]] && [ "$((10#$each))" -gt "$best" ]; then best=$((10#$each)); fi
  done
  printf '%d' "$best"
}

failures=0
while true; do
  before=$(newest)
  "$@" </dev/null &
  child=$!
  hand_on
  # A trap ends a wait, with a code of its own.
  while true; do
    interrupted="" code=0
    wait "$child" || code=$?
    [ -n "$interrupted" ] || break
  done
  child=""
  case $code in 0 | 2) exit "$code" ;; esac
  [ -z "$signalled" ] || exit "$code"

  if [ "$code" = 75 ]; then
    failures=0
    say "it stopped early; starting it again."
  elif [ -n "$run" ] && [ "$(newest)" -gt "$before" ]; then
    failures=0
    say "it ended with code $code after it had saved the checkpoint of step $(newest); starting it again."
  else
    failures=$((failures + 1))
    if [ "$failures" -ge "$most" ]; then
      say "gave up after $failures failures in a row without a new checkpoint; the last ended with code $code."
      exit "$code"
    fi
    say "it ended with code $code without a new checkpoint ($failures of $most); starting it again."
  fi
done
