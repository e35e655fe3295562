# Shared by the scripts beside it: options, the build, the workload, the machine. Not run itself.

ROOT=$(cd "$(dirname "$0")/.." && pwd)
OUT=''
DATA=''
WORKLOAD=search
DURATION=''
SHARDS=0
ROWS=''
PID=''
LOAD=''
WHAT=''
HTTP=127.0.0.1:51051
TARGET=${KYRODB_PERF_TARGET:-$ROOT/target/perf}
INSTALL=no
METHOD=auto
BIN=''
BENCH=''
BENCH_PID=''
OURS=''

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

say() {
    echo "${0##*/}: $*" >&2
}

common_help() {
    cat <<'HELP'
  --out DIR        where the results go; made if it is missing (required)
  --workload W     search (default): searches with ef 50, one client, then four, in turns
                   insert: durable inserts, one client, then eight
                   mixed:  500 searches a second, five seconds alone, then five with 500 durable
                           inserts a second beside them, twice
                   A server of its own is built with frame pointers, loaded, and measured from
                   the moment on at which all is loaded. The load is that of the end_to_end bench
  --data DIR       data set with base.npy, queries.npy, gt_ids.npy; without it 4,999 documents of
                   data/sample, searched for with the sample's own vectors
  --bench PATH     an end_to_end bench that is built, with its server, instead of a build
  --rows N         load only the first N rows
  --shards N       shards of that server; 0, the default, is as many as it has cores
  --seconds N      how long to measure (10; for insert 4)
  --pid PID        measure this running server instead, with whatever load it has
  --load COMMAND   with --pid: a shell command that makes the load, ended with the measurement
  --what TEXT      with --pid: what load it has, for the title
  --http ADDRESS   with --pid: where that server answers /metrics (127.0.0.1:51051)
  --install        install what is missing: linux-perf with apt-get, inferno from crates.io
  --help           this text

KYRODB_PERF_TARGET is where things are built (target/perf in the checkout).
HELP
}

# Takes the options that all scripts have, and --method.
parse() {
    while [ $# -gt 0 ]; do
        option=$1
        case $option in
            --help | -h) usage; exit 0 ;;
            --install) INSTALL=yes; shift; continue ;;
        esac
        [ $# -ge 2 ] || die "$option: no such option, or its value is missing; see --help"
        case $option in
            --out) OUT=$2 ;;
            --workload) WORKLOAD=$2 ;;
            --data) DATA=$2 ;;
            --bench) BENCH=$2 ;;
            --rows) ROWS=$(number "$option" "$2") ;;
            --shards) SHARDS=$(number "$option" "$2") ;;
            --seconds) DURATION=$(number "$option" "$2") ;;
            --pid) PID=$(number "$option" "$2") ;;
            --load) LOAD=$2 ;;
            --what) WHAT=$2 ;;
            --http) HTTP=$2 ;;
            --method) METHOD=$2 ;;
            *) die "$option: no such option; see --help" ;;
        esac
        shift 2
    done
    [ -n "$OUT" ] || die "--out DIR is missing; see --help"
    case $WORKLOAD in
        search | mixed) : "${DURATION:=10}" ;;
        insert) : "${DURATION:=4}" ;;
        *) die "--workload $WORKLOAD: there are search, insert and mixed" ;;
    esac
    [ "$DURATION" -ge 1 ] && [ "$DURATION" -le 3600 ] || die "--seconds: 1 to 3600"
    [ -z "$LOAD" ] || [ -n "$PID" ] || die "--load goes with --pid"
    [ -z "$PID" ] || [ -d "/proc/$PID/task" ] || die "--pid $PID: there is no such process"
    mkdir -p "$OUT" || die "$OUT can't be made"
    OUT=$(cd "$OUT" && pwd)
}

number() {
    case $2 in
        '' | *[!0-9]*) die "$1 $2: not a number" ;;
        *) echo "$2" ;;
    esac
}

# need PROGRAM PACKAGE: looks for a program of the system, or installs its package.
need() {
    command -v "$1" >/dev/null && return
    [ "$INSTALL" = yes ] || die "there is no $1: apt-get install $2, or give --install"
    say "installing $2 with apt-get"
    apt-get install -y "$2" >"$OUT/install.txt" 2>&1 || die "it failed, see $OUT/install.txt"
    command -v "$1" >/dev/null || die "$2 has no $1; your distribution may call it otherwise"
}

# Perf has to be there, and this user has to be allowed to watch kernel and process.
need_perf() {
    need perf linux-perf
    paranoid=$(cat /proc/sys/kernel/perf_event_paranoid 2>/dev/null || echo unknown)
    [ "$(id -u)" = 0 ] || [ "$paranoid" = -1 ] || [ "$paranoid" = 0 ] ||
        die "kernel.perf_event_paranoid is $paranoid: be root, or sysctl -w \
kernel.perf_event_paranoid=0"
}

# The programs of inferno, which draw flame graphs.
need_inferno() {
    PATH=$PATH:$TARGET/tools/bin
    command -v inferno-flamegraph >/dev/null && return
    [ "$INSTALL" = yes ] ||
        die "there is no inferno: cargo install inferno --locked, or give --install"
    say "installing inferno from crates.io to $TARGET/tools"
    cargo install inferno --locked --quiet --root "$TARGET/tools" || die "that failed"
}

# Builds server and bench with frame pointers in every frame of ours. Prints the bench's path.
build() {
    say "building into $TARGET, which takes minutes the first time"
    (
        cd "$ROOT"
        CARGO_TARGET_DIR=$TARGET RUSTFLAGS='-C force-frame-pointers=yes' \
            cargo bench --bench end_to_end --no-run --message-format=json 2>"$OUT/build.txt"
    ) | sed -n 's/.*"executable":"\([^"]*end_to_end-[^"]*\)".*/\1/p' | tail -1
}

# need_bin LOG: BIN has the server and the load tester: what the caller names, or a release build.
need_bin() {
    if [ -z "$BIN" ]; then
        command -v cargo >/dev/null || die "there is no cargo to build with: give --bin"
        target=${KYRODB_PERF_TARGET:-$ROOT/target}
        say "building into $target, which takes minutes the first time"
        (cd "$ROOT" && CARGO_TARGET_DIR=$target cargo build --release --bins) >"$1" 2>&1 ||
            die "the build failed, see $1"
        BIN=$target/release
    fi
    for program in kyrodb_server kyrodb_load_tester; do
        [ -x "$BIN/$program" ] || die "--bin $BIN: there is no $program"
    done
}

free_port() {
    python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# answers PID COMMAND...: waits until the command succeeds, as long as the process lives.
answers() {
    process=$1 tries=0
    shift
    until "$@" >/dev/null 2>&1; do
        kill -0 "$process" 2>/dev/null || return 1
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || return 1
        sleep 0.2
    done
}

# True if a page is there.
is_ready() {
    python3 -c 'import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=1).read()' "$1"
}

# The data set of the bench, made of the sample: its vectors are documents and queries.
sample() {
    made=$TARGET/sample
    mkdir -p "$made"
    ln -sf "$ROOT/data/sample/vectors.npy" "$made/base.npy"
    ln -sf "$ROOT/data/sample/vectors.npy" "$made/queries.npy"
    echo "$made"
}

# Leaves no server behind, however the script ends.
clean_up() {
    [ -n "$BENCH_PID" ] || return 0
    # A bench that is ended does not end its server.
    [ -n "$LOAD" ] || OURS=$(server_of "$BENCH_PID" 2>/dev/null) || :
    kill "$BENCH_PID" 2>/dev/null || :
    [ -z "$OURS" ] || kill "$OURS" 2>/dev/null || :
}

# Brings the server to where the measurement begins: PID is its process.
begin() {
    trap clean_up EXIT
    trap 'exit 1' INT TERM
    if [ -n "$PID" ]; then
        echo "${WHAT:-a running server, $DURATION s, load: ${LOAD:-from elsewhere}}" \
            >"$OUT/workload.txt"
        if [ -n "$LOAD" ]; then
            sh -c "exec $LOAD" >"$OUT/load.txt" 2>&1 &
            BENCH_PID=$!
        fi
        return
    fi
    if [ -n "$BENCH" ]; then
        [ -x "$BENCH" ] || die "--bench $BENCH: there is no such program"
    else
        command -v cargo >/dev/null || die "there is no cargo to build with: give --bench or --pid"
        BENCH=$(build)
        [ -x "$BENCH" ] || die "the build failed, see $OUT/build.txt"
    fi
    set -- --only "$WORKLOAD" --shards "$SHARDS"
    if [ -n "$DATA" ]; then
        [ -f "$DATA/base.npy" ] || die "--data $DATA: there is no base.npy in it"
        set -- "$@" --data "$DATA"
        [ -z "$ROWS" ] || set -- "$@" --rows "$ROWS"
    else
        # Fewer rows than there are: exact neighbours, which the sample lacks, are not asked for.
        set -- "$@" --data "$(sample)" --rows "${ROWS:-4999}"
    fi
    if [ "$WORKLOAD" = search ]; then
        # Each round of searches takes more than a second.
        set -- "$@" --ef "50$(yes ,50 | head -n "$DURATION" | tr -d '\n')"
    fi
    # What an earlier run has left would be taken for this one's.
    : >"$OUT/bench.txt"
    "$BENCH" "$@" >"$OUT/bench.txt" 2>&1 &
    BENCH_PID=$!
    say "loading"
    until grep -q '^memory:' "$OUT/bench.txt"; do
        kill -0 "$BENCH_PID" 2>/dev/null || die "the bench ended, see $OUT/bench.txt"
        sleep 0.1
    done
    PID=$(server_of "$BENCH_PID")
    [ -n "$PID" ] || die "the bench has no server"
    OURS=$PID
    HTTP=127.0.0.1:$(tr '\0' '\n' <"/proc/$PID/environ" |
        sed -n 's/^KYRODB__SERVER__HTTP_PORT=//p')
    {
        echo "workload $WORKLOAD of the end_to_end bench, $DURATION s from the end of the load on"
        head -1 "$OUT/bench.txt"
    } >"$OUT/workload.txt"
}

# The server among the children of a process.
server_of() {
    for child in $(cat /proc/"$1"/task/*/children); do
        [ "$(cat "/proc/$child/comm")" != kyrodb_server ] || echo "$child"
    done
}

# Waits for the load, or ends it where it is a command of the caller's.
finish() {
    [ -n "$BENCH_PID" ] || return 0
    if [ -n "$LOAD" ]; then
        kill "$BENCH_PID" 2>/dev/null || :
        wait "$BENCH_PID" || :
    else
        say "waiting for the bench to end"
        wait "$BENCH_PID" || die "the bench failed, see $OUT/bench.txt"
    fi
    # Both have ended; their numbers may be somebody else's soon.
    BENCH_PID=''
    OURS=''
}

# What was measured on, without the name of the host.
machine() {
    model=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -1)
    virtual=no
    grep -q '^flags.* hypervisor' /proc/cpuinfo && virtual=yes
    echo "CPU: ${model:-unknown}, $(nproc) CPUs; virtual machine: $virtual"
    echo "kernel: $(uname -sr), $(uname -m)"
    echo "memory: $(sed -n 's/^MemTotal: *//p' /proc/meminfo)"
    echo "transparent huge pages: $(cat /sys/kernel/mm/transparent_hugepage/enabled 2>/dev/null)"
    # Other work on the machine makes figures worse.
    echo "load average when it began: $(cut -d' ' -f1-3 /proc/loadavg)"
}

# Name of a thread, by the number of its task.
thread_name() {
    cat "/proc/$PID/task/$1/comm" 2>/dev/null || echo gone
}
