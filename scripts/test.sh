#!/usr/bin/env bash
# Sets up, builds and runs the tests.
#   scripts/test.sh           all but the slow ones
#   scripts/test.sh --slow    only the slow proofs (trait Category=slow)
#   scripts/test.sh --all     everything
# Then come the twenty slowest tests with their seconds; the last line is "N passed, N failed" (", N skipped") over all test projects.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "${1:-}" in
  "") filter=(-trait- Category=slow) ;;
  --slow) filter=(-trait Category=slow) ;;
  --all) filter=() ;;
  *) echo "usage: scripts/test.sh [--slow | --all]" >&2; exit 2 ;;
esac

scripts/setup.sh --tests
# shellcheck source=scripts/mpi-environment.sh
. scripts/mpi-environment.sh
dotnet build LongNet.Training.sln -c Release --nologo -v quiet

reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT
crashed=0
for project in tests/*.Tests; do
  name=$(basename "$project")
  crashed_with=0
  "$project/bin/Release/net10.0/LongNet.$name" -noColor "${filter[@]}" -result-xml "$reports/$name.xml" </dev/null || crashed_with=$?
  # A report is written however many tests failed; none means that the process died.
  if [ ! -s "$reports/$name.xml" ]; then
    echo "test.sh: LongNet.$name ended with code $crashed_with and wrote no report." >&2
    crashed=$((crashed + 1))
  fi
done

echo "slowest:"
cat "$reports"/*.xml 2>/dev/null | grep -o '<test [^>]*' | sed -E 's/.* name="([^"]*)".* time="([0-9.]*)".*/\2 s  \1/' | sort -rn | sed -n 1,20p || true

# Totals come from the reports' own attributes.
total() { cat "$reports"/*.xml 2>/dev/null | grep -o '<assembly [^>]*' | grep -o " $1=\"[0-9]*\"" | grep -o '[0-9]*' | awk '{ n += $1 } END { print n + 0 }' || true; }
passed=$(total passed) failed=$(($(total failed) + $(total errors) + crashed)) skipped=$(total skipped)
[ "$passed" -gt 0 ] || { echo "test.sh: no test ran." >&2; failed=$((failed + 1)); }
if [ "$skipped" -gt 0 ]; then echo "$passed passed, $failed failed, $skipped skipped"; else echo "$passed passed, $failed failed"; fi
[ "$failed" = 0 ]
