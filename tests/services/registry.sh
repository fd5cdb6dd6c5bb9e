#!/usr/bin/env bash
# A schema registry with Confluent's interface for tests: Apicurio Registry in memory, from Maven Central.
#
#   registry.sh install | start [--while-used] | stop | status
#
# `start` prints URL=.. and USERS=.., a file; with --while-used it stops a minute after the last process has let go of
# its shared lock on that file. Needs java 17 or newer, and mvn for `install` only (142 MB).
#   MILLSTREAM_SERVICES       where services live (default ${XDG_CACHE_HOME:-~/.cache}/millstream/services)
set -euo pipefail
DIR=${MILLSTREAM_SERVICES:-${XDG_CACHE_HOME:-$HOME/.cache}/millstream/services}/registry
VER=2.6.13.Final # the last that runs on Java 17
JAVA=${JAVA_HOME:+$JAVA_HOME/bin/}java
APP=$DIR/app-$VER PID=$DIR/pid LOG=$DIR/registry.log
IDLE_SECONDS=60
die() { echo "registry.sh: $*" >&2; exit 1; }

needs() {
  local major
  command -v "$JAVA" >/dev/null || die "not installed here: java (17 or newer)"
  [ -e "$APP/.complete" ] || command -v mvn >/dev/null || die "not installed here: mvn (Maven)"
  major=$("$JAVA" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
  [ "${major:-0}" -ge 17 ] || die "java is version ${major:-unknown}, and 17 or newer is needed"
}

install() {
  [ -e "$APP/.complete" ] && return
  local tmp; mkdir -p "$DIR"; tmp=$(mktemp -d "$DIR/install.XXXXXX")
  mvn -B -q org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy \
    -Dartifact="io.apicurio:apicurio-registry-app:$VER:tar.gz:all" -DoutputDirectory="$tmp" >"$tmp/mvn.log" 2>&1 ||
    { tail -5 "$tmp/mvn.log" >&2; rm -rf "$tmp"; die "Maven could not fetch the registry $VER"; }
  mkdir "$tmp/app"; tar -xzf "$tmp"/*.tar.gz -C "$tmp/app"
  touch "$tmp/app/.complete"; rm -rf "$APP"; mv "$tmp/app" "$APP"; rm -rf "$tmp"
}

running() {
  local p; p=$(cat "$PID" 2>/dev/null) && [ -n "$p" ] && kill -0 "$p" 2>/dev/null &&
    tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null | grep -qF "apicurio"
}

answers() { # the interface answers, not only the port
  timeout 2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/'"$PORT"'
    printf "GET /apis/ccompat/v7/subjects HTTP/1.0\r\n\r\n" >&3; head -1 <&3' 2>/dev/null | grep -q ' 200 '
}

start() {
  needs; mkdir -p "$DIR"
  exec 9>"$DIR/lock"; flock -w 300 9 || die "another start is under way"
  touch "$DIR/users"
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
  local i; for ((i = 0; i < 600; i++)); do
    kill -0 "$(cat "$PID")" 2>/dev/null || { tail -5 "$LOG" >&2; die "the registry ended; see $LOG"; }
    answers && break
    sleep 0.1
  done
  answers || die "not ready in 60 s; see $LOG"
  say
  if [ "${1:-}" = --while-used ]; then
    setsid nohup "$0" reap >/dev/null 2>&1 9>&- </dev/null &
  fi
}

say() {
  echo "PID=$(cat "$PID")"
  echo "URL=http://127.0.0.1:$PORT/apis/ccompat/v7"
  echo "USERS=$DIR/users"
}

reap() { # one at a time; ends with the registry
  exec 8>"$DIR/reaper"; flock -n 8 || exit 0
  local idle=0
  while running; do
    sleep 5
    if flock -n -x "$DIR/users" true; then idle=$((idle + 5)); else idle=0; fi
    [ $idle -lt $IDLE_SECONDS ] || { stop; exit 0; }
  done
}

stop() {
  running || { rm -f "$PID"; echo "not running"; return; }
  local p i; p=$(cat "$PID"); kill "$p"
  for ((i = 0; i < 100; i++)); do kill -0 "$p" 2>/dev/null || break; sleep 0.1; done
  kill -9 "$p" 2>/dev/null || true
  rm -f "$PID"; echo "stopped $p"
}

status() {
  running || { echo "not running"; return 1; }
  PORT=$(cat "$DIR/port"); say
}

case "${1:-}" in
  install) needs; install; echo "the registry $VER is in $APP" ;;
  start) start "${2:-}" ;;
  stop | status | reap) "$1" ;;
  *) die "usage: registry.sh install | start [--while-used] | stop | status" ;;
esac
