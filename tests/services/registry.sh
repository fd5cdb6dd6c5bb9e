#!/usr/bin/env bash
# A schema registry with Confluent's interface for tests: Apicurio Registry in memory, from Maven Central.
#
#   registry.sh install | start [--while-used] | stop | status
#
# `start` prints URL=.. and USERS=.., a file; with --while-used it stops a minute after the last process has let go of
# its shared lock on that file. Needs java 17 or newer, and mvn for `install` only (142 MB).
#   MILLSTREAM_SERVICES       where services live (default ${XDG_CACHE_HOME:-~/.cache}/millstream/services)
set -euo pipefail
NAME=registry.sh
. "$(dirname "$(readlink -f "$0")")/jvm.sh"
DIR=$SERVICES/registry
VER=2.6.13.Final # the last that runs on Java 17
APP=$DIR/app-$VER PID=$DIR/pid LOG=$DIR/registry.log MARK=apicurio

install() {
  [ -e "$APP/.complete" ] && return
  local tmp; mkdir -p "$DIR"; tmp=$(mktemp -d "$DIR/install.XXXXXX")
  mvn -B -q org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy \
    -Dartifact="io.apicurio:apicurio-registry-app:$VER:tar.gz:all" -DoutputDirectory="$tmp" >"$tmp/mvn.log" 2>&1 ||
    { tail -5 "$tmp/mvn.log" >&2; rm -rf "$tmp"; die "Maven could not fetch the registry $VER"; }
  mkdir "$tmp/app"; tar -xzf "$tmp"/*.tar.gz -C "$tmp/app"
  touch "$tmp/app/.complete"; rm -rf "$APP"; mv "$tmp/app" "$APP"; rm -rf "$tmp"
}

answers() { # the interface answers, not only the port
  timeout 2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/'"$PORT"'
    printf "GET /apis/ccompat/v7/subjects HTTP/1.0\r\n\r\n" >&3; head -1 <&3' 2>/dev/null | grep -q ' 200 '
}

start() {
  needs "$APP/.complete"
  alone
  if running; then
    PORT=$(cat "$DIR/port")
  else
    install
    PORT=$(cat "$DIR/port" 2>/dev/null || echo $((20000 + RANDOM % 12000)))
    while (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; do PORT=$((20000 + RANDOM % 12000)); done
    echo "$PORT" >"$DIR/port"
    local jar; jar=$(find "$APP" -maxdepth 1 -name "*-runner.jar" | head -1)
    [ -n "$jar" ] || die "there is no runner in $APP"
    setsid nohup env -C "$APP" "$JAVA" -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
      -Dquarkus.http.host=127.0.0.1 -Dquarkus.http.port="$PORT" -jar "$jar" >"$LOG" 2>&1 9>&- </dev/null &
    echo $! >"$PID"
  fi
  await answers
  say
  [ "${1:-}" != --while-used ] || while_used
}

say() {
  echo "PID=$(cat "$PID")"
  echo "URL=http://127.0.0.1:$PORT/apis/ccompat/v7"
  echo "USERS=$DIR/users"
}

status() {
  running || { echo "not running"; return 1; }
  PORT=$(cat "$DIR/port"); say
}

case "${1:-}" in
  install) needs "$APP/.complete"; install; echo "the registry $VER is in $APP" ;;
  start) start "${2:-}" ;;
  stop | status | reap) "$1" ;;
  *) die "usage: registry.sh install | start [--while-used] | stop | status" ;;
esac
