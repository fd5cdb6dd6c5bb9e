"""A plain Kafka client: `topics name=partitions ..`, `produce topic` (key|value lines from stdin), `consume topic`."""

import sys
import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

server, verb, *names = sys.argv[1:]

if verb == "topics":
    admin = KafkaAdminClient(bootstrap_servers=server)
    wanted = {name: int(count) for name, count in (text.split("=") for text in names)}
    # An earlier showing of the example is forgotten, with what the engine remembers of it.
    old = [name for name in [*wanted, "__millstream_markers"] if name in admin.list_topics()]
    if old:
        admin.delete_topics(old)
        time.sleep(2)
    admin.create_topics([NewTopic(name, count, 1) for name, count in wanted.items()])
elif verb == "produce":
    producer = KafkaProducer(bootstrap_servers=server, linger_ms=5)
    for n, line in enumerate(sys.stdin.buffer):
        key, value = line.rstrip(b"\n").split(b"|", 1)
        # The last record of each partition closes its windows.
        last = value.find(b'"closing"') >= 0
        producer.send(names[0], value, key=key, partition=n % 3 if last else None)
        if n % 500 == 0:
            time.sleep(0.1)
    producer.flush()
elif verb == "consume":
    consumer = KafkaConsumer(bootstrap_servers=server, isolation_level="read_committed", auto_offset_reset="earliest")
    parts = [TopicPartition(names[0], p) for p in consumer.partitions_for_topic(names[0])]
    consumer.assign(parts)
    quiet = 0
    while quiet < 4:
        batches = consumer.poll(1000)
        quiet = 0 if batches else quiet + 1
        for records in batches.values():
            for record in records:
                print(record.value.decode())
