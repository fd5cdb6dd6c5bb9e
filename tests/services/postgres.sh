#!/usr/bin/env bash
# A PostgreSQL server for tests, made of the binaries that are installed.
#
#   tests/services/postgres.sh start [name]    prints its URL; starts it where it doesn't run
#   tests/services/postgres.sh status [name]   prints its URL, or fails
#   tests/services/postgres.sh stop [name]     at once, as `pg_ctl -m immediate` does: it recovers when it starts again
#   tests/services/postgres.sh kill [name]     SIGKILL for every process of it
#   tests/services/postgres.sh home [name]     prints the directory where it is kept
#   tests/services/postgres.sh remove [name]   stops it and removes its data
#
# The default name is `main`; `bench` gets the memory that a server of its own would have. A name that begins with `tls` gets a server that demands TLS and passwords, with a CA, a
# server's and a client's certificate in `certs/`. Every verb may be called again and by several processes at a time.
set -euo pipefail

verb=${1:-}
name=${2:-main}
case "$name" in *[!a-z0-9-]* | '') echo "postgres.sh: a name is made of a-z, 0-9 and -" >&2; exit 2 ;; esac

fail() { echo "postgres.sh: $*" >&2; exit 1; }

services=${MILLSTREAM_SERVICES:-$HOME/.cache/millstream/services}
user=
if [ "$(id -u)" = 0 ]; then
    # The server refuses root: another user runs it, who must be able to reach its files.
    user=nobody
    id postgres > /dev/null 2>&1 && user=postgres
    services=${MILLSTREAM_SERVICES:-/var/tmp/millstream-services}
    command -v setpriv > /dev/null || command -v runuser > /dev/null || command -v su > /dev/null ||
        fail "one of setpriv, runuser and su is missing: as root the server is run by '$user'"
fi
root=$services/postgres-$name
data=$root/data

as_user() {
    if [ -z "$user" ]; then "$@"
    elif command -v setpriv > /dev/null; then setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups "$@"
    elif command -v runuser > /dev/null; then runuser -u "$user" -- "$@"
    else su -s /bin/sh "$user" -c "$(printf '%q ' "$@")"
    fi
}

find_binaries() {
    for dir in "$(dirname "$(readlink -f "$(command -v initdb || echo /nowhere/initdb)")")" \
        $(ls -d /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /opt/homebrew/opt/postgresql*/bin 2> /dev/null | sort -Vr); do
        if [ -x "$dir/initdb" ] && [ -x "$dir/pg_ctl" ] && [ -x "$dir/postgres" ]; then bin=$dir; return; fi
    done
    fail "PostgreSQL's initdb, pg_ctl and postgres are missing: install 'postgresql' (nothing of it needs to run)"
}

url() {
    case "$name" in
        tls*) echo "postgresql://millstream@localhost:$(cat "$root/port")/postgres" ;;
        *) echo "postgresql://postgres@127.0.0.1:$(cat "$root/port")/postgres" ;;
    esac
}

postmaster() { head -1 "$data/postmaster.pid" 2> /dev/null || true; }

runs() {
    local pid; pid=$(postmaster)
    [ -n "$pid" ] && kill -0 "$pid" 2> /dev/null && as_user "$bin/pg_ctl" status -D "$data" > /dev/null 2>&1
}

free_port() {
    local port
    for _ in $(seq 100); do
        port=$((20000 + RANDOM % 12000))
        (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null || { echo "$port"; return; }
    done
    fail "no free port was found between 20000 and 32000"
}

certificates() {
    command -v openssl > /dev/null || fail "openssl is missing: it makes the certificates of the TLS tests"
    mkdir -p "$root/certs"
    (
        cd "$root/certs"
        openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj '/CN=millstream test CA' -keyout ca.key -out ca.crt
        openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj '/CN=another CA' -keyout other-ca.key -out other-ca.crt
        for who in server client; do
            subject=localhost
            [ $who = client ] && subject=millstream
            openssl req -newkey rsa:2048 -nodes -subj "/CN=$subject" -keyout $who.key -out $who.csr
            printf 'subjectAltName=DNS:%s\n' "$subject" > $who.ext
            openssl x509 -req -in $who.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile $who.ext -out $who.crt
        done
        cp server.key server.crt ca.crt "$data/"
        chmod 600 "$data/server.key"
        chmod 644 ./*.key ./*.crt
        if [ -n "$user" ]; then chown "$user" "$data/server.key" "$data/server.crt" "$data/ca.crt"; fi
    ) > "$root/certs.log" 2>&1 || fail "openssl failed, see $root/certs.log"
}

initialise() {
    rm -rf "$data"
    as_user "$bin/initdb" -D "$data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 > "$root/initdb.log" 2>&1 ||
        as_user "$bin/initdb" -D "$data" -U postgres -A trust -E UTF8 --locale=C > "$root/initdb.log" 2>&1 ||
        fail "initdb failed, see $root/initdb.log"
    free_port > "$root/port"
    cat >> "$data/postgresql.conf" << CONF
listen_addresses = '127.0.0.1'
port = $(cat "$root/port")
unix_socket_directories = '$root/socket'
max_connections = 200
shared_buffers = $(if [ "$name" = bench ]; then echo 2GB; else echo 256MB; fi)
max_wal_size = 2GB
log_min_messages = warning
CONF
    case "$name" in tls*)
        certificates
        printf "ssl = on\nssl_ca_file = 'ca.crt'\npassword_encryption = 'scram-sha-256'\n" >> "$data/postgresql.conf"
        cat > "$data/pg_hba.conf" << 'HBA'
local   all all                     trust
hostssl all with_certificate all    cert map=any
hostssl all all              all    scram-sha-256
HBA
        echo 'any millstream with_certificate' > "$data/pg_ident.conf"
        touch "$root/wants-users"
        ;;
    esac
    touch "$root/initialised"
}

start() {
    mkdir -p "$root/socket"
    if [ -n "$user" ]; then chmod 755 "$services" "$root"; chown "$user" "$root" "$root/socket"; fi
    [ -e "$root/initialised" ] || initialise
    runs && return
    # After a kill the last processes of the old server may still be on their way out.
    for _ in $(seq 50); do
        as_user "$bin/pg_ctl" start -w -t 60 -D "$data" -l "$root/server.log" > "$root/start.log" 2>&1 < /dev/null && break
        sleep 0.2
    done
    runs || fail "the server doesn't start, see $root/server.log"
    if [ -e "$root/wants-users" ]; then
        as_user psql -q -h "$root/socket" -p "$(cat "$root/port")" -U postgres -d postgres -v ON_ERROR_STOP=1 << 'SQL'
CREATE ROLE millstream SUPERUSER LOGIN PASSWORD 'correct horse';
CREATE ROLE with_certificate SUPERUSER LOGIN;
SQL
        rm "$root/wants-users"
    fi
}

find_binaries
mkdir -p "$root"
exec 9> "$root/lock"
flock 9
case "$verb" in
    start) start 9>&-; url ;;
    status) runs && url ;;
    stop) if runs; then as_user "$bin/pg_ctl" stop -m immediate -D "$data" > /dev/null 9>&-; fi ;;
    kill)
        pid=$(postmaster)
        if [ -n "$pid" ]; then
            children=$(pgrep -P "$pid" || true)
            # shellcheck disable=SC2086 # a list of process ids
            kill -9 $pid $children 2> /dev/null || true
            for _ in $(seq 100); do runs || break; sleep 0.02; done
        fi
        ;;
    home) echo "$root" ;;
    remove)
        if runs; then as_user "$bin/pg_ctl" stop -m immediate -D "$data" > /dev/null 9>&-; fi
        rm -rf "$root"
        ;;
    *) fail "usage: postgres.sh start|status|stop|kill|home|remove [name]" ;;
esac
