#!/usr/bin/env bash
# A real Apache Kafka for tests: one node (KRaft), from Maven Central, without root and without docker.
#
#   kafka.sh install            fetch the jars (45 MB) where they are missing
#   kafka.sh start [--while-used]   start it, or find it running; prints how to reach it, one KEY=VALUE a line
#   kafka.sh status | stop | kill   kill: SIGKILL, as a crash would
#
# --while-used stops it by itself a minute after the last process has let go of its shared lock on the file `users`.
# Needs java 17 or newer, openssl, and mvn for `install` only.
#   MILLSTREAM_SERVICES       where services live (default ${XDG_CACHE_HOME:-~/.cache}/millstream/services)
#   MILLSTREAM_KAFKA          the instance (default `shared`): brokers of different names have nothing in common
#   KAFKA_VERSION, KAFKA_HEAP (default 512m)
#   KAFKA_JAVA_OPTS           default: only the C1 compiler, which starts sooner; set it empty for benchmarks
# Listeners: PLAINTEXT; SSL, which demands a client certificate; SASL_SSL with PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.
set -euo pipefail
NAME=kafka.sh
. "$(dirname "$(readlink -f "$0")")/jvm.sh"
ROOT=$SERVICES/kafka
# Not 4.3 or 4.4: started again after a crash, their transaction coordinator takes a partition without a leader for one
# that was deleted, and forgets to end a transaction there; its readers then wait for ever.
VER=${KAFKA_VERSION:-4.2.0}
DIR=$ROOT/${MILLSTREAM_KAFKA:-shared}
HEAP=${KAFKA_HEAP:-512m}
OPTS=${KAFKA_JAVA_OPTS--XX:TieredStopAtLevel=1}
LIBS=$ROOT/libs-$VER DATA=$DIR/data TLS=$DIR/tls PID=$DIR/pid LOG=$DIR/kafka.log CONF=$DIR/server.properties
MARK="kafka.Kafka $CONF"
USER_NAME=millstream PASSWORD=millstream-secret
# A broker that has served this many topic partitions begins anew: its start would become slow.
PARTITIONS_MAX=1500

install() {
  [ -e "$LIBS/.complete" ] && return
  local tmp; mkdir -p "$ROOT"; tmp=$(mktemp -d "$ROOT/install.XXXXXX")
  cat >"$tmp/pom.xml" <<POM
<project><modelVersion>4.0.0</modelVersion>
<groupId>local</groupId><artifactId>kafka-dist</artifactId><version>1</version><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$VER</version></dependency>
<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
</dependencies></project>
POM
  mvn -B -q -f "$tmp/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DoutputDirectory="$tmp/libs" -DincludeScope=runtime >"$tmp/mvn.log" 2>&1 ||
    { tail -5 "$tmp/mvn.log" >&2; rm -rf "$tmp"; die "Maven could not fetch Kafka $VER"; }
  touch "$tmp/libs/.complete"; rm -rf "$LIBS"; mv "$tmp/libs" "$LIBS"; rm -rf "$tmp"
}

ready() { # a Metadata v4 request is answered and lists one broker
  timeout 2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/'"$PORT"'
    printf "\0\0\0\023\0\003\0\004\0\0\0\001\0\004test\0\0\0\0\0" >&3
    head -c 16 <&3 | od -An -tu1 -v' 2>/dev/null | grep -qE ' 0 +0 +0 +1$'
}

open_port() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

ports() { # four ports in a row that nobody has, below those that the system gives to clients; kept from start to start
  local try p free
  PORT=$(cat "$DIR/port" 2>/dev/null || true)
  for ((try = 0; try < 100; try++)); do
    free=1
    if [ -n "$PORT" ]; then
      for p in 0 1 2 3; do ! open_port $((PORT + p)) || free=0; done
      [ $free = 1 ] && break
    fi
    PORT=$((20000 + RANDOM % 12000))
  done
  [ "$PORT" = "$(cat "$DIR/port" 2>/dev/null || true)" ] || rm -rf "$DATA" # the controller's port is in the data
  echo "$PORT" >"$DIR/port"
}

certs() { # a CA, a server certificate for localhost and 127.0.0.1, and a client certificate; PEM
  [ -e "$TLS/server.pem" ] && return
  local t; t=$(mktemp -d "$DIR/tls.XXXXXX")
  { openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=millstream-test-ca \
      -keyout "$t/ca.key" -out "$t/ca.pem"
    for who in server client; do
      openssl req -newkey rsa:2048 -nodes -subj "/CN=$who" -keyout "$t/$who.key" -out "$t/$who.csr"
      openssl x509 -req -in "$t/$who.csr" -CA "$t/ca.pem" -CAkey "$t/ca.key" -CAcreateserial -days 3650 \
        -extfile <(echo "subjectAltName=DNS:localhost,IP:127.0.0.1") -out "$t/$who.crt"
    done
    openssl pkcs8 -topk8 -nocrypt -in "$t/server.key" -out "$t/server.pem"; } >"$t/openssl.log" 2>&1 ||
    { tail -5 "$t/openssl.log" >&2; die "openssl failed"; }
  cat "$t/server.crt" "$t/ca.pem" >>"$t/server.pem"
  rm -rf "$TLS"; mv "$t" "$TLS"
}

session_ms() { # a busy machine must not cost the broker its session; after a crash the old one is waited for
  if [ -e "$DATA/meta.properties" ] && [ ! -e "$DATA/.kafka_cleanshutdown" ]; then echo 2000; else echo 9000; fi
}

config() {
  local listeners="PLAINTEXT://127.0.0.1:$PORT,SSL://127.0.0.1:$((PORT+2)),SASL_SSL://127.0.0.1:$((PORT+3))"
  cat <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$((PORT+1))
controller.listener.names=CONTROLLER
listeners=$listeners,CONTROLLER://127.0.0.1:$((PORT+1))
advertised.listeners=$listeners,CONTROLLER://127.0.0.1:$((PORT+1))
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL
inter.broker.listener.name=PLAINTEXT
log.dirs=$DATA
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=$(session_ms)
broker.heartbeat.interval.ms=250
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
log.cleaner.dedupe.buffer.size=4194304
log.cleaner.backoff.ms=500
log.retention.hours=-1
ssl.keystore.type=PEM
ssl.keystore.location=$TLS/server.pem
ssl.truststore.type=PEM
ssl.truststore.location=$TLS/ca.pem
listener.name.ssl.ssl.client.auth=required
listener.name.sasl_ssl.ssl.client.auth=none
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_$USER_NAME="$PASSWORD";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
CONF
}

format() {
  local id; id=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_')
  rm -rf "$DATA"
  "$JAVA" "${JVM[@]}" -cp "$LIBS/*" kafka.tools.StorageTool format --standalone -c "$CONF" -t "M${id:1:21}" \
    --add-scram "SCRAM-SHA-256=[name=$USER_NAME,password=$PASSWORD]" \
    --add-scram "SCRAM-SHA-512=[name=$USER_NAME,password=$PASSWORD]" >"$DIR/format.log" 2>&1 ||
    { tail -5 "$DIR/format.log" >&2; die "Kafka could not format its data"; }
  echo "$VER" >"$DIR/version"
}

start() {
  needs "$LIBS/.complete" openssl
  alone
  # One of another version could not be started again on its data.
  if running && [ "$VER" != "$(cat "$DIR/version" 2>/dev/null)" ]; then stop >&2; fi
  if running; then
    PORT=$(cat "$DIR/port")
  else
    install; certs; ports
    config >"$CONF"
    JVM=(-XX:+UseSerialGC $OPTS -Dorg.slf4j.simpleLogger.defaultLogLevel=warn)
    local served; served=$( (ls "$DATA" 2>/dev/null || true) | wc -l)
    [ -e "$DATA/meta.properties" ] && [ "$served" -lt $PARTITIONS_MAX ] && [ "$VER" = "$(cat "$DIR/version" 2>/dev/null)" ] || format
    setsid nohup "$JAVA" "-Xmx$HEAP" -Xms128m "${JVM[@]}" -cp "$LIBS/*" kafka.Kafka "$CONF" \
      >"$LOG" 2>&1 9>&- </dev/null &
    echo $! >"$PID"
  fi
  await ready
  say
  [ "${1:-}" != --while-used ] || while_used
}

crash() {
  running || die "not running"
  local p; p=$(cat "$PID"); kill -9 "$p"
  while kill -0 "$p" 2>/dev/null; do sleep 0.02; done
  rm -f "$PID"; echo "killed $p"
}

say() {
  echo "PID=$(cat "$PID")"
  echo "BOOTSTRAP=127.0.0.1:$PORT"
  echo "SSL=127.0.0.1:$((PORT+2))"
  echo "SASL_SSL=127.0.0.1:$((PORT+3))"
  echo "CA=$TLS/ca.pem"
  echo "CLIENT_CERT=$TLS/client.crt"
  echo "CLIENT_KEY=$TLS/client.key"
  echo "USER=$USER_NAME"
  echo "PASSWORD=$PASSWORD"
  echo "USERS=$DIR/users"
}

status() {
  running || { echo "not running"; return 1; }
  PORT=$(cat "$DIR/port")
  ready || { echo "running pid $(cat "$PID"), not ready"; return 2; }
  say
}

case "${1:-}" in
  install) needs "$LIBS/.complete" openssl; install; echo "Kafka $VER is in $LIBS" ;;
  start) start "${2:-}" ;;
  stop | status | reap) "$1" ;;
  kill) crash ;;
  *) die "usage: kafka.sh install | start [--while-used] | stop | status | kill" ;;
esac
