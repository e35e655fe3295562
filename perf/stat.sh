#!/bin/sh
# Counts what an operation of a server costs: events, switches, bytes. See --help.
set -eu
. "$(dirname "$0")/common.sh"

usage() {
    cat <<'HELP'
perf/stat.sh --out DIR [OPTIONS]

Counts events of a server and divides them by the searches and inserts that it answered meanwhile:
hardware counters where the host has them (stat.txt says so where not), software counters, calls
of the kernel, CPU time of each thread, bytes written.

HELP
    common_help
    cat <<'HELP'

Writes: stat.txt; perf.csv (as perf stat gave it); machine.txt, workload.txt, bench.txt.
HELP
}

HARDWARE='cycles instructions branch-misses cache-references cache-misses dTLB-load-misses'
SOFTWARE='task-clock context-switches cpu-migrations minor-faults major-faults'
CALLS='raw_syscalls:sys_enter'

# Requests answered so far.
operations() {
    page=$(curl -sf --max-time 10 "http://$HTTP/metrics") || return
    echo "$page" |
        awk '/^kyrodb_request_seconds_count\{method="(search|insert)"\}/ { n += $2 }
             END { printf "%d\n", n }'
}

# Running ns of each thread, with its number and name.
threads() {
    for task in /proc/"$PID"/task/*; do
        { read -r running _ <"$task/schedstat"; } 2>/dev/null || continue
        echo "${task##*/} $running $(thread_name "${task##*/}")"
    done
}

io() {
    sed -n 's/^\(syscw\|write_bytes\|read_bytes\): /\1 /p' "/proc/$PID/io"
}

# Which of these events can be counted here.
countable() {
    events=''
    for event in "$@"; do
        counted=$(perf stat -x, -e "$event" true 2>&1 || :)
        case $counted in
            *'<not'* | *'rror'* | *nable*) ;;
            *) events="$events${events:+,}$event" ;;
        esac
    done
    echo "$events"
}

# What perf runs: it counts from just before the first of these readings to just after the last.
if [ "${1:-}" = --inside ]; then
    PID=$2 HTTP=$3 DURATION=$4 OUT=$5
    for when in before after; do
        operations >"$OUT/operations_$when.txt"
        threads >"$OUT/threads_$when.txt"
        io >"$OUT/io_$when.txt"
        [ "$when" = after ] || sleep "$DURATION"
    done
    exit
fi

parse "$@"
need_perf
need curl curl
hardware=$(countable $HARDWARE)
events=$(countable $SOFTWARE $CALLS)${hardware:+,$hardware}
begin
machine >"$OUT/machine.txt"
operations >/dev/null || die "http://$HTTP/metrics does not answer; see --http"
say "counting process $PID for $DURATION s"
perf stat -x, -o "$OUT/perf.csv" -e "$events" -p "$PID" -- \
    "$0" --inside "$PID" "$HTTP" "$DURATION" "$OUT" ||
    die "the server has ended, or perf failed: take fewer --seconds"
count=$(($(cat "$OUT/operations_after.txt") - $(cat "$OUT/operations_before.txt")))
[ "$count" -gt 0 ] || die "the server has answered no search or insert meanwhile"
finish

{
    cat "$OUT/machine.txt" "$OUT/workload.txt"
    [ -n "$hardware" ] || echo "hardware counters: this host has none (as in most virtual machines)"
    echo
    printf '%-28s %16s %14s\n' EVENT TOTAL "OF $count"
    awk -F, -v count="$count" '/^[0-9.]/ {
        # Milliseconds of the CPU; all else are counts.
        unit = $2 == "msec" ? " ms" : ""
        printf "%-28s %16.0f %14.4f%s\n", $3, $1, $1 / count, unit
    }' "$OUT/perf.csv"
    awk -v count="$count" 'NR == FNR { before[$1] = $2; next }
        { n = $2 - before[$1]; printf "%-28s %16.0f %14.4f\n", "io: " $1, n, n / count }
    ' "$OUT/io_before.txt" "$OUT/io_after.txt"
    awk -v count="$count" 'NR == FNR { before[$1] = $2; next }
        $1 in before {
            us = ($2 - before[$1]) / 1e3
            printf "%-28s %16.0f %14.4f us\n", "CPU, us: " $3, us, us / count
        }' "$OUT/threads_before.txt" "$OUT/threads_after.txt"
} >"$OUT/stat.txt"
rm "$OUT"/*_before.txt "$OUT"/*_after.txt
cat "$OUT/stat.txt"
