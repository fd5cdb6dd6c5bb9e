#!/usr/bin/env bash
# Kafka -> sliding windows -> PostgreSQL and Kafka, killed at random, and counted by plain psql and a plain consumer.
#
#   examples/fraud/run.sh [millstream binary]      default: target/release/millstream, then target/debug/millstream
#
# Build it first: cargo build --release --features kafka. Needs Java 17, Maven, Python and PostgreSQL's binaries; broker and
# database are started on free ports and left running: `MILLSTREAM_KAFKA=example tests/services/kafka.sh stop` and
# `tests/services/postgres.sh stop` end them.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
services=../../tests/services
target=${CARGO_TARGET_DIR:-../../target}
engine=${1:-$target/release/millstream}
[ -x "$engine" ] || engine=$target/debug/millstream
[ -x "$engine" ] || { echo "no binary: cargo build --release --features kafka" >&2; exit 1; }
engine=$(realpath "$engine")
rows=${ROWS:-20000}

echo "starting Kafka and PostgreSQL .."
export MILLSTREAM_KAFKA=example # a broker that no test stops
facts=$($services/kafka.sh start)
KAFKA=$(sed -n 's/^BOOTSTRAP=//p' <<<"$facts")
# A plain client that knows nothing of the engine: kafka-python, in a place of its own.
PYTHON=${XDG_CACHE_HOME:-$HOME/.cache}/millstream/services/kafka-python
[ -e "$PYTHON/.complete" ] || { python3 -m venv "$PYTHON" && "$PYTHON/bin/pip" -q install kafka-python && touch "$PYTHON/.complete"; }
POSTGRES=$($services/postgres.sh start)
export KAFKA POSTGRES
work=$(mktemp -d)
trap 'code=$?; kill -9 ${pid:-0} 2>/dev/null || true; [ $code = 0 ] || tail -20 "$work/engine.log" >&2; rm -rf "$work"' EXIT
client() { "$PYTHON/bin/python" "$here/client.py" "$KAFKA" "$@"; }
client topics payments=3 alerts=1 dead-letters=1
psql -q "$POSTGRES" -c 'SET client_min_messages = error; DROP TABLE IF EXISTS card_minutes, millstream_markers'

# A payment every 20 ms of event time over 40 cards; every thousandth line is no JSON. The last one closes all windows.
feed() {
  awk -v rows="$1" 'BEGIN { srand(7)
    for (i = 0; i < rows; i++) {
      ms = i * 20; card = int(rand() * 40)
      if (i % 1000 == 500) { print "c" card "|not a payment " i; continue }
      printf "c%d|{\"id\":%d,\"card\":\"c%d\",\"amount\":%.2f,\"ts\":\"2026-01-01 %02d:%02d:%02d.%03d\"}\n", card, i, card,
        rand() * 100, int(ms / 3600000), int(ms / 60000) % 60, int(ms / 1000) % 60, ms % 1000
    }
    for (p = 0; p < 40; p++) printf "c%d|{\"id\":%d,\"card\":\"closing\",\"amount\":0,\"ts\":\"2026-01-01 20:00:00.000\"}\n", p, rows + p
  }'
}
feed "$rows" > "$work/payments"
cp fraud.sql "$work/"
cd "$work"
start() { "$engine" run --quiet --max-batch-rows 500 fraud.sql >> engine.log 2>&1 & pid=$!; disown; }

echo "feeding $rows payments, and killing the engine while it works .."
client produce payments < payments & feeding=$!
kills=0
while [ $kills -lt 10 ]; do
  start
  sleep "0.$((RANDOM % 90 + 10))"
  kill -9 "$pid" 2>/dev/null || true
  kills=$((kills + 1))
done
wait $feeding
start

expected=$(awk -F'"' '/"card":"c[0-9]/ { split($0, a, "\"ts\":\"2026-01-01 "); split(a[2], t, /[:.]/)
    s = t[1] * 3600 + t[2] * 60 + t[3]; for (w = 0; w < 6; w++) seen[$6 FS int(s / 10) * 10 + 10 * (w + 1)]++ }
  END { for (k in seen) { n++; payments += seen[k]; if (seen[k] > 25) alerts++ } print n, payments, alerts + 0 }' "$work/payments")
read -r windows payments alerts <<<"$expected"
for _ in $(seq 120); do
  found=$(psql -At "$POSTGRES" -c "SELECT count(*) FROM card_minutes WHERE card <> 'closing'" 2>/dev/null || echo 0)
  [ "$found" -ge "$windows" ] && break
  sleep 0.5
done
sleep 1
kill -TERM "$pid"; while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done

echo
echo "killed $kills times. Counted by awk in the file that was produced, and by plain clients where it arrived:"
read -r found total < <(psql -At -F' ' "$POSTGRES" -c "SELECT count(*), sum(payments) FROM card_minutes WHERE card <> 'closing'")
written=$(client consume alerts | wc -l)
letters=$(client consume dead-letters | wc -l)
bad=$(grep -c 'not a payment' payments)
printf '  %-44s %10s %10s\n' '' produced arrived \
  'PostgreSQL: windows of cards' "$windows" "$found" 'PostgreSQL: payments in them' "$payments" "$total" \
  'Kafka, read committed: alerts' "$alerts" "$written" 'Kafka, read committed: dead letters' "$bad" "$letters"
psql "$POSTGRES" -c "SELECT card, window_end, payments, total FROM card_minutes WHERE card <> 'closing' ORDER BY payments DESC, card LIMIT 5"
"$engine" status .millstream/fraud | sed -n 1,40p
if [ "$windows $payments $alerts $bad" = "$found $total $written $letters" ]; then
  echo "nothing lost, nothing doubled"
else
  echo "NOT EQUAL; the engine said:"; tail -20 engine.log; exit 1
fi
