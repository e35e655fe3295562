#!/bin/sh
# Draws a flame graph of a server under a stated workload. See --help.
set -eu
. "$(dirname "$0")/common.sh"

usage() {
    cat <<'HELP'
perf/flamegraph.sh --out DIR [OPTIONS]

Samples where a server's threads spend CPU time, 997 times a second by the CPU clock, which needs
no hardware counters, and draws flame.svg. Its lowest row is one box a thread, by name: each core
(kyro-core-N), each thread of the gateway (kyro-gw-N), kyro-pulse, kyro-http. Open it in a browser;
a click goes into a box, Ctrl-F looks for a name.

HELP
    common_help
    cat <<'HELP'

Writes: flame.svg; stacks.folded (for inferno-diff-folded: two runs against each other);
threads.txt (CPU time of each thread); machine.txt, workload.txt, bench.txt; perf.data.
HELP
}

parse "$@"
need_perf
need_inferno
begin
machine >"$OUT/machine.txt"

say "sampling process $PID for $DURATION s"
perf record -q -e cpu-clock -F 997 -g --call-graph fp -p "$PID" -o "$OUT/perf.data" \
    -- sleep "$DURATION" 2>"$OUT/perf.txt" || die "perf record failed, see $OUT/perf.txt"
finish

# Without inlined frames: finding them asks addr2line for each address, which takes hours.
perf script -i "$OUT/perf.data" --no-inline 2>>"$OUT/perf.txt" |
    inferno-collapse-perf >"$OUT/stacks.folded" 2>>"$OUT/perf.txt"
[ -s "$OUT/stacks.folded" ] || die "there are no samples, see $OUT/perf.txt"
inferno-flamegraph --title "KyroDB: $(head -1 "$OUT/workload.txt")" \
    --subtitle "CPU time by thread, 997 Hz" --countname ns "$OUT/stacks.folded" >"$OUT/flame.svg"

awk '
    { of[substr($0, 1, index($0, ";") - 1)] += $NF; total += $NF }
    END { for (name in of) printf "%-16s %10.1f ms %5.1f %%\n", name, of[name] / 1e6,
              100 * of[name] / total }
' "$OUT/stacks.folded" | sort -k2 -n -r >"$OUT/threads.txt"
cat "$OUT/threads.txt"
say "wrote $OUT/flame.svg"
