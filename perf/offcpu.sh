#!/bin/sh
# Shows where a server's threads spend the time in which they do not run. See --help.
set -eu
. "$(dirname "$0")/common.sh"

usage() {
    cat <<'HELP'
perf/offcpu.sh --out DIR [--method auto|sched|sample] [OPTIONS]

Time off the CPU of each thread of a server: blocked (waiting for something) and ready (able to
run, but another one did), and where they waited. What is before the first switch of a thread and
after its last is not in the figures of sched.

  --method sched   every switch, recorded by perf sched tracepoints, with stacks; exact. Writes
                   threads.txt, and offcpu.svg in microseconds: its lowest row is a box a thread
  --method sample  for kernels that do not allow that: running and ready from
                   /proc/PID/task/*/schedstat, exact; where they wait from state and wchan, which
                   are looked at some twenty times a second. Writes threads.txt and where.txt
  --method auto    sched if the kernel allows it, else sample; method.txt says which was used

HELP
    common_help
}

# One line for each thread: number, running ns, ready ns, name.
schedstats() {
    for task in /proc/"$PID"/task/*; do
        number=${task##*/}
        { read -r running ready _ <"$task/schedstat"; } 2>/dev/null || continue
        echo "$number $running $ready $(thread_name "$number")"
    done
}

by_samples() {
    [ -r "/proc/$PID/schedstat" ] || die "this kernel has no /proc/PID/schedstat"
    schedstats >"$OUT/before.txt"
    begun=$(date +%s%N)
    last=$((begun + DURATION * 1000000000))
    : >"$OUT/samples.txt"
    while [ "$(date +%s%N)" -lt "$last" ]; do
        for task in /proc/"$PID"/task/*; do
            { read -r stat <"$task/stat"; } 2>/dev/null || continue
            # The file has no end of line, which read calls a failure.
            where=''
            { read -r where <"$task/wchan"; } 2>/dev/null || :
            rest=${stat##*) }
            name=${stat#*(}
            echo "${name%%)*} ${rest%% *} ${where:-0}"
        done >>"$OUT/samples.txt"
        sleep 0.05
    done
    schedstats >"$OUT/after.txt"
    length=$(($(date +%s%N) - begun))
    awk -v length_ns="$length" '
        NR == FNR { running[$1] = $2; ready[$1] = $3; next }
        FNR == 1 { printf "%-16s %12s %12s %12s\n", "THREAD", "RUNNING_MS", "BLOCKED_MS",
                          "READY_MS" }
        $1 in running {
            on = $2 - running[$1]; waited = $3 - ready[$1]
            printf "%-16s %12.1f %12.1f %12.1f\n", $4, on / 1e6,
                (length_ns - on - waited) / 1e6, waited / 1e6
        }
    ' "$OUT/before.txt" "$OUT/after.txt" >"$OUT/threads.txt"
    {
        echo "SAMPLES THREAD STATE WHERE (0: running, or not told)"
        sort "$OUT/samples.txt" | uniq -c | sort -n -r
    } >"$OUT/where.txt"
    rm "$OUT/before.txt" "$OUT/after.txt" "$OUT/samples.txt"
    cat "$OUT/threads.txt"
    say "wrote $OUT/threads.txt and where.txt"
}

# filter FIELD…: a tracepoint filter for all threads of the server.
filter() {
    joined=''
    for task in $tasks; do
        for field in "$@"; do
            joined="$joined${joined:+ || }$field == $task"
        done
    done
    echo "$joined"
}

by_switches() {
    tasks=$(ls "/proc/$PID/task" | tr '\n' ' ')
    perf record -q -a -g -o "$OUT/perf.data" \
        -e sched:sched_switch --filter "$(filter prev_pid next_pid)" \
        -e sched:sched_wakeup --filter "$(filter pid)" \
        -- sleep "$DURATION" 2>"$OUT/perf.txt" || die "perf record failed, see $OUT/perf.txt"
    finish
    perf script -i "$OUT/perf.data" --no-inline -F comm,tid,cpu,time,event,trace,ip,sym \
        2>>"$OUT/perf.txt" |
        awk -v tasks="$tasks" -v table="$OUT/threads.txt" -f "$ROOT/perf/offcpu.awk" \
            >"$OUT/stacks.folded"
    [ -s "$OUT/stacks.folded" ] || die "no thread waited, see $OUT/perf.txt"
    inferno-flamegraph --title "KyroDB off the CPU: $(head -1 "$OUT/workload.txt")" \
        --subtitle "time blocked by thread" --countname us --colors blue \
        "$OUT/stacks.folded" >"$OUT/offcpu.svg"
    cat "$OUT/threads.txt"
    say "wrote $OUT/threads.txt and offcpu.svg"
}

# The kernel lets us record switches of all threads.
can_record() {
    command -v perf >/dev/null &&
        perf record -q -a -e sched:sched_switch -o "$OUT/trial.data" -- true >/dev/null 2>&1 &&
        rm -f "$OUT/trial.data"
}

parse "$@"
case $METHOD in
    auto) if [ "$INSTALL" = no ] && ! can_record; then METHOD=sample; else METHOD=sched; fi ;;
    sched | sample) ;;
    *) die "--method $METHOD: there are auto, sched and sample" ;;
esac
if [ "$METHOD" = sched ]; then
    need_perf
    need_inferno
    can_record || die "perf can't record sched:sched_switch here; take --method sample"
fi
echo "$METHOD" >"$OUT/method.txt"
begin
machine >"$OUT/machine.txt"
say "watching process $PID for $DURATION s, by method $METHOD"
if [ "$METHOD" = sched ]; then
    by_switches
else
    by_samples
    finish
fi
