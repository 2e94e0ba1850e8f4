#!/usr/bin/env bash
# Sets up, builds and runs the tests.
#   scripts/test.sh           all but the slow ones
#   scripts/test.sh --slow    only the slow proofs (trait Category=slow)
#   scripts/test.sh --all     everything
# Tests that measure time or memory, or whose deadlines are short, have the trait Category=machine: they run by themselves, after the
# others. The others run in two lanes at once, as most of them wait for processes that start: those that train on ranks, and the rest.
# Then come the twenty slowest tests with their seconds; the last line is "N passed, N failed" (", N skipped") over all test projects.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
  "") lanes=yes alone=(-trait Category=machine -trait- Category=slow) ;;
  --slow) lanes="" alone=(-trait Category=slow) ;;
  --all) lanes=yes alone=(-trait Category=machine -trait Category=slow) ;;
  *) echo "usage: scripts/test.sh [--slow | --all]" >&2; exit 2 ;;
esac

scripts/setup.sh --tests
# shellcheck source=scripts/mpi-environment.sh
. scripts/mpi-environment.sh
dotnet build LongNet.Training.sln -c Release --nologo -v quiet

reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT

# run NAME PART FILTER…: the tests of one project. A report is written however many tests failed; none means that the process died.
run() {
  local name=$1 part=$2 code=0
  shift 2
  "tests/$name.Tests/bin/Release/net10.0/LongNet.$name.Tests" -noColor "$@" -result-xml "$reports/$name-$part.xml" </dev/null || code=$?
  if [ ! -s "$reports/$name-$part.xml" ]; then
    echo "test.sh: LongNet.$name.Tests ended with code $code and wrote no report." >&2
    echo crashed >"$reports/$name-$part.crashed"
  fi
}

if [ -n "$lanes" ]; then
  together=(-trait- Category=machine -trait- Category=slow)
  training=LongNet.Trainer.Tests.Ranks
  {
    run Core lanes "${together[@]}"
    run Distributed lanes "${together[@]}"
    run Trainer lanes "${together[@]}" -namespace- $training
  } >"$reports/lane.log" 2>&1 &
  run Trainer ranks "${together[@]}" -namespace $training
  wait
  cat "$reports/lane.log"
fi
for name in Core Distributed Trainer; do
  run "$name" alone "${alone[@]}"
done

echo "slowest:"
cat "$reports"/*.xml 2>/dev/null | grep -o '<test [^>]*' | sed -E 's/.* name="([^"]*)".* time="([0-9.]*)".*/\2 s  \1/' | sort -rn | sed -n 1,20p || true

# Totals come from the reports' own attributes.
total() { cat "$reports"/*.xml 2>/dev/null | grep -o '<assembly [^>]*' | grep -o " $1=\"[0-9]*\"" | grep -o '[0-9]*' | awk '{ n += $1 } END { print n + 0 }' || true; }
crashed=$(find "$reports" -name '*.crashed' | wc -l)
passed=$(total passed) failed=$(($(total failed) + $(total errors) + crashed)) skipped=$(total skipped)
[ "$passed" -gt 0 ] || { echo "test.sh: no test ran." >&2; failed=$((failed + 1)); }
if [ "$skipped" -gt 0 ]; then echo "$passed passed, $failed failed, $skipped skipped"; else echo "$passed passed, $failed failed"; fi
[ "$failed" = 0 ]
