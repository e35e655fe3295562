#!/bin/sh
# Measures a server with a data set, whole: curve, SLO, writes, flame graph, host. See --help.
set -eu
. "$(dirname "$0")/common.sh"

usage() {
    cat <<'HELP'
perf/report.sh --out DIR --data DATA [OPTIONS]

Builds the server and the load tester, starts a server of one shard, loads DATA into it, and
measures, one after the other and with nothing else beside it:

  curve/    recall, searches a second and latency over beam widths, closed loop
  slo/      the highest rate that keeps the promise, open loop
  writes/   250 searches and 250 durable inserts a second, open loop
  flame/    a flame graph of the server under the closed loop (perf/flamegraph.sh)
  doctor.txt, machine.txt

  --out DIR        where the results go; made if it is missing (required)
  --data DATA      a directory with base.npy, queries.npy and gt_ids.npy (required)
  --widths LIST    beam widths of the curve (15,20,30,50,75,100,150,200,300,400)
  --slo-p99-ms MS  the promise: 99th percentile of the latency (5)
  --recall RATIO   and recall (0.95)
  --seconds N      length of each run (5)
  --shards N       shards of the server (1)
  --bin DIR        kyrodb_server and kyrodb_load_tester that are built, instead of a build
  --install        install what the flame graph needs, as perf/flamegraph.sh does
  --help           this text

Everything the server writes is under DIR/data, which is removed at the end.
HELP
}

WIDTHS=15,20,30,50,75,100,150,200,300,400
SLO=5
RECALL=0.95
SECONDS_EACH=5
SHARDS=1
SERVER=''
LOADER=''

while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --install) INSTALL=yes; shift; continue ;;
    esac
    [ $# -ge 2 ] || die "$1: no such option, or its value is missing; see --help"
    case $1 in
        --out) OUT=$2 ;;
        --data) DATA=$2 ;;
        --widths) WIDTHS=$2 ;;
        --slo-p99-ms) SLO=$2 ;;
        --recall) RECALL=$2 ;;
        --seconds) SECONDS_EACH=$2 ;;
        --shards) SHARDS=$(number "$1" "$2") ;;
        --bin) BIN=$2 ;;
        *) die "$1: no such option; see --help" ;;
    esac
    shift 2
done
[ -n "$OUT" ] || die "--out DIR is missing; see --help"
[ -n "$DATA" ] || die "--data DATA is missing; see --help"
[ -f "$DATA/base.npy" ] || die "--data $DATA: there is no base.npy in it"
mkdir -p "$OUT" || die "$OUT can't be made"
OUT=$(cd "$OUT" && pwd)

command -v python3 >/dev/null || die "there is no python3: apt-get install python3"
need_bin "$OUT/build.txt"
SERVER_PORT=$(free_port) HTTP_PORT=$(free_port)

# Leaves no server and none of its files behind, however this ends.
stop() {
    [ -z "$LOADER" ] || kill "$LOADER" 2>/dev/null || :
    [ -z "$SERVER" ] || { kill "$SERVER" && wait "$SERVER"; } 2>/dev/null || :
    rm -rf "$OUT/data"
}
trap stop EXIT
trap 'exit 1' INT TERM

machine >"$OUT/machine.txt"
"$BIN/kyrodb_server" --data-dir "$OUT/data" --doctor >"$OUT/doctor.txt" || :
KYRODB__RUNTIME__SHARDS=$SHARDS KYRODB__SERVER__HTTP_PORT=$HTTP_PORT "$BIN/kyrodb_server" \
    --data-dir "$OUT/data" --port "$SERVER_PORT" >"$OUT/server.txt" 2>&1 &
SERVER=$!
answers "$SERVER" is_ready "http://127.0.0.1:$HTTP_PORT/ready" ||
    die "the server did not start, see $OUT/server.txt"

# test_load NAME ARGUMENTS: a run of the load tester, with its table, lines and pictures in DIR/NAME.
test_load() {
    name=$1
    shift
    mkdir -p "$OUT/$name"
    say "$name"
    code=0
    "$BIN/kyrodb_load_tester" --server "http://127.0.0.1:$SERVER_PORT" --data "$DATA" \
        --duration "$SECONDS_EACH" --json "$OUT/$name/lines.jsonl" --svg "$OUT/$name" \
        --report "$OUT/$name/report.html" "$@" >"$OUT/$name/table.txt" || code=$?
    cat "$OUT/$name/table.txt"
    return "$code"
}

test_load curve --load --concurrency 4 sweep ef "$WIDTHS"
# A promise that no rate keeps is a result too; what follows is at the server's own beam width then.
test_load slo sweep rate --slo-p99-ms "$SLO" --recall "$RECALL" || say "slo: not kept, see above"
ef=$(sed -n 's/.*a second at ef \([0-9]*\),.*/\1/p' "$OUT/slo/table.txt")
: "${ef:=0}"
printf 'rate = 500\nduration = 20\n[weights]\nsearch = 1\ninsert = 1\n' >"$OUT/writes.toml"
SECONDS_EACH=20
test_load writes --ef "$ef" --workload "$OUT/writes.toml"

# The load tester first looks whether all documents are there; what counts comes after it.
"$BIN/kyrodb_load_tester" --server "http://127.0.0.1:$SERVER_PORT" --data "$DATA" --closed \
    --concurrency 4 --ef "$ef" --duration 60 --json "$OUT/load.jsonl" >"$OUT/load.txt" 2>&1 &
LOADER=$!
until grep -q interval "$OUT/load.jsonl" 2>/dev/null; do
    kill -0 "$LOADER" 2>/dev/null || die "the load tester ended, see $OUT/load.txt"
    sleep 0.1
done
[ "$INSTALL" = no ] || set -- --install
"$ROOT/perf/flamegraph.sh" --out "$OUT/flame" --pid "$SERVER" \
    --http "127.0.0.1:$HTTP_PORT" --what "closed loop, 4 searches at a time, ef $ef" "$@"
kill "$LOADER" && wait "$LOADER" 2>/dev/null || :
LOADER=''
say "wrote $OUT"
