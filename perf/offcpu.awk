# Reads `perf script` of sched_switch and sched_wakeup; tasks="1 2 3" are those of the server.
# Writes a table of threads to `table`, and to standard output stacks in which threads waited,
# folded, in microseconds.
function field(name) {
    if (!match($0, " " name "=[^ ]+")) return ""
    return substr($0, RSTART + length(name) + 2, RLENGTH - length(name) - 2)
}

BEGIN {
    count = split(tasks, list, " ")
    for (i = 1; i <= count; i++) ours[list[i]] = 1
    keeper = ""
}

# A line of a stack, innermost first: an address and a name.
/^[\t ]+[0-9a-f]+ / {
    if (keeper == "") next
    sub(/^[\t ]+[0-9a-f]+ /, "")
    gsub(/;/, ":")
    stack[keeper] = stack[keeper] == "" ? $0 : $0 ";" stack[keeper]
    next
}

/sched_switch:/ {
    match($0, /[0-9]+\.[0-9]+: /)
    now = substr($0, RSTART, RLENGTH - 2) * 1e6
    before = field("prev_pid")
    after = field("next_pid")
    keeper = ""
    if (before in ours) {
        if (before in on_since) running[before] += now - on_since[before]
        off_since[before] = now
        # R, also with a + behind it, is one who was put off; all else wait for something.
        state[before] = substr(field("prev_state"), 1, 1)
        stack[before] = ""
        delete woken[before]
        switches[before]++
        keeper = before
    }
    if (after in ours) {
        if (after in off_since) {
            left = off_since[after]
            if (state[after] == "R") {
                ready[after] += now - left
            } else {
                until = (after in woken) ? woken[after] : now
                blocked[after] += until - left
                ready[after] += now - until
                where[after ";" stack[after]] += until - left
            }
        }
        on_since[after] = now
        name[after] = field("next_comm")
    }
    next
}

/sched_wakeup:/ {
    keeper = ""
    who = field("pid")
    if (!(who in ours)) next
    match($0, /[0-9]+\.[0-9]+: /)
    woken[who] = substr($0, RSTART, RLENGTH - 2) * 1e6
    next
}

END {
    head = "%-16s %12s %12s %12s %10s\n"
    printf head, "THREAD", "RUNNING_MS", "BLOCKED_MS", "READY_MS", "SWITCHES" >table
    # What is still in a buffer would be written over what sort appends.
    close(table)
    for (i = 1; i <= count; i++) {
        task = list[i]
        if (!(task in switches)) continue
        printf "%-16s %12.1f %12.1f %12.1f %10d\n", name[task], running[task] / 1e3,
            blocked[task] / 1e3, ready[task] / 1e3, switches[task] | ("sort >>" table)
    }
    for (key in where) {
        cut = index(key, ";")
        printf "%s%s %d\n", name[substr(key, 1, cut - 1)], substr(key, cut), where[key]
    }
}
