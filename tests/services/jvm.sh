# What the services on the JVM share; sourced by them, never run. They set NAME (of the script), DIR, PID, LOG, and
# MARK, by which the command line of the running service is known; DIR/users is locked (shared) by everybody who uses it.
SERVICES=${MILLSTREAM_SERVICES:-${XDG_CACHE_HOME:-$HOME/.cache}/millstream/services}
JAVA=${JAVA_HOME:+$JAVA_HOME/bin/}java
IDLE_SECONDS=60
die() { echo "$NAME: $*" >&2; exit 1; }

needs() { # these commands, java, and Maven where $1, what it fetches, is not there yet
  local missing=() command major fetched=$1; shift
  command -v "$JAVA" >/dev/null || missing+=("java (17 or newer)")
  for command in "$@"; do command -v "$command" >/dev/null || missing+=("$command"); done
  [ -e "$fetched" ] || command -v mvn >/dev/null || missing+=("mvn (Maven)")
  [ ${#missing[@]} = 0 ] || die "not installed here: $(IFS=,; echo "${missing[*]}" | sed 's/,/, /g')"
  major=$("$JAVA" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
  [ "${major:-0}" -ge 17 ] || die "java is version ${major:-unknown}, and 17 or newer is needed"
}

alone() { # one start at a time, until the script ends; descriptor 9 is not for the service
  mkdir -p "$DIR"
  exec 9>"$DIR/lock"; flock -w 300 9 || die "another start is under way"
  touch "$DIR/users"
}

running() { # the pid in the file is alive and is this service
  local p; p=$(cat "$PID" 2>/dev/null) && [ -n "$p" ] && kill -0 "$p" 2>/dev/null &&
    tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null | grep -qF "$MARK"
}

await() { # until this command succeeds
  local i; for ((i = 0; i < 600; i++)); do
    kill -0 "$(cat "$PID")" 2>/dev/null || { tail -20 "$LOG" >&2; die "it ended; see $LOG"; }
    "$@" && return
    sleep 0.1
  done
  die "not ready in 60 s; see $LOG"
}

while_used() { # stops it a minute after the last user is gone
  setsid nohup "$0" reap >/dev/null 2>&1 9>&- </dev/null &
}

reap() { # one at a time; ends with the service
  exec 8>"$DIR/reaper"; flock -n 8 || exit 0
  local idle=0
  while running; do
    sleep 5
    if flock -n -x "$DIR/users" true; then idle=$((idle + 5)); else idle=0; fi
    [ $idle -ge $IDLE_SECONDS ] || continue
    alone # who starts it now finds it either running, before it is used, or stopped
    if flock -n -x "$DIR/users" true; then stop; exit 0; fi
    idle=0; exec 9>&-
  done
}

stop() {
  running || { rm -f "$PID"; echo "not running"; return; }
  local p i; p=$(cat "$PID"); kill "$p"
  for ((i = 0; i < 200; i++)); do kill -0 "$p" 2>/dev/null || break; sleep 0.1; done
  kill -9 "$p" 2>/dev/null || true
  rm -f "$PID"; echo "stopped $p"
}
