#!/usr/bin/env bash
# A pgbouncer in transaction mode before the PostgreSQL of postgres.sh, with two server connections for everybody.
#
#   tests/services/pgbouncer.sh start     prints its URL; starts both where they don't run
#   tests/services/pgbouncer.sh status    prints its URL, or fails
#   tests/services/pgbouncer.sh stop
#
# The one that $MILLSTREAM_PGBOUNCER names is taken, or the one of the PATH; where there is none, Debian's or Ubuntu's
# package is unpacked in the cache folder of the services, which asks for no rights and installs nothing.
set -euo pipefail

verb=${1:-}
fail() { echo "pgbouncer.sh: $*" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)

# As postgres.sh: where another user than root can reach it.
services=$(dirname "$("$here/postgres.sh" home main)")

unpacked() {
    local root=$services/pgbouncer-package
    if [ ! -x "$root/pgbouncer" ] && command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null; then
        local lists=$root/lists
        rm -rf "$root"
        mkdir -p "$lists/state/lists/partial" "$lists/cache/archives/partial" "$root/files"
        local apt=(-qq -o "Dir::State=$lists/state" -o "Dir::Cache=$lists/cache" -o Dir::State::status=/var/lib/dpkg/status
            -o APT::Sandbox::User=)
        (
            cd "$lists"
            apt-get "${apt[@]}" update
            # Its libraries go by other names from one release to the next.
            apt-get "${apt[@]}" download pgbouncer \
                $(apt-cache "${apt[@]}" depends pgbouncer | sed -n 's/^ *Depends: \(lib\(event\|c-ares\|cares\).*\)/\1/p')
            for package in ./*.deb; do dpkg-deb -x "$package" "$root/files"; done
        ) > "$root/log" 2>&1 || return 0
        local libraries
        libraries=$(dirname "$(find "$root/files" -name 'libevent*.so.*' | head -1)")
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s/files/usr/sbin/pgbouncer "$@"\n' "$libraries" "$root" > "$root/new"
        chmod 755 "$root/new"
        "$root/new" --version >> "$root/log" 2>&1 || return 0
        rm -rf "$lists"
        mv "$root/new" "$root/pgbouncer"
    fi
    [ ! -x "$root/pgbouncer" ] || echo "$root/pgbouncer"
}

exec 8> "$services/pgbouncer.lock"
flock 8
binary=${MILLSTREAM_PGBOUNCER:-$(command -v pgbouncer || unpacked)}
[ -x "$binary" ] || fail "pgbouncer is missing: install 'pgbouncer' (it need not run), or name it in MILLSTREAM_PGBOUNCER"
exec 8>&-

database=$("$here/postgres.sh" start main)
home=$("$here/postgres.sh" home main)/pgbouncer
mkdir -p "$home"
exec 9> "$home/lock"
flock 9

url() { echo "postgresql://postgres@127.0.0.1:$(cat "$home/port")/postgres"; }
runs() { [ -s "$home/pid" ] && kill -0 "$(cat "$home/pid")" 2> /dev/null; }

start() {
    runs && return
    local port
    for _ in $(seq 100); do
        port=$((20000 + RANDOM % 12000))
        (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null || break
    done
    echo "$port" > "$home/port"
    local server=${database##*:}
    cat > "$home/pgbouncer.ini" << CONF
[databases]
* = host=127.0.0.1 port=${server%%/*}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
server_round_robin = 1
max_client_conn = 100
logfile = $home/log
pidfile = $home/pid
CONF
    sed -i "s|^\* = .*|& user=postgres|" "$home/pgbouncer.ini"
    if [ "$(id -u)" = 0 ]; then
        # It refuses root, as the server does.
        local user=nobody
        id postgres > /dev/null 2>&1 && user=postgres
        chown -R "$user" "$home"
        set -- -u "$user"
    else
        set --
    fi
    "$binary" -d "$@" "$home/pgbouncer.ini" > "$home/start.log" 2>&1 < /dev/null 9>&- || fail "it does not start, see $home/start.log"
    for _ in $(seq 100); do
        (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null && return
        sleep 0.05
    done
    fail "it does not answer, see $home/log"
}

case "$verb" in
    start) start; url ;;
    status) runs && url ;;
    stop) if runs; then kill "$(cat "$home/pid")"; rm -f "$home/pid"; fi ;;
    *) fail "usage: pgbouncer.sh start|status|stop" ;;
esac
