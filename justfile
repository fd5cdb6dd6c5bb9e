# What CI runs. `just` alone lists the recipes.

# Formatting, lints, tests, docs, licences and advisories.
check: fmt clippy test doc deny

fmt:
    cargo fmt --all --check

clippy:
    cargo clippy --workspace --features millstream-cli/kafka,millstream-bench/kafka,millstream-bench/postgres --all-targets -- -D warnings

test:
    cargo test --workspace --features millstream-cli/kafka

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

deny:
    cargo deny check licenses bans sources

# Known vulnerabilities of the dependencies; fetches the advisory database.
advisories:
    cargo deny check advisories

# Kills the binary thousands of times, for as long as you let it: over files; then with Kafka and PostgreSQL, which are
# killed a tenth as often, about 2,000 kills of the binary an hour.
soak kills="2000":
    MILLSTREAM_KILLS={{kills}} cargo test -p millstream-cli -p millstream --test kill -- --nocapture
    MILLSTREAM_KILLS={{kills}} cargo test --workspace --features millstream-cli/kafka --test end_to_end -- --nocapture

# The law over generated queries, inputs, cuts and restarts, for as long as you let it: hours.
law cases="1000000":
    MILLSTREAM_LAW_CASES={{cases}} cargo test -p millstream-cli -p millstream --test law -- --nocapture

# Every number of the README and docs/performance.md, measured here.
bench *ARGS:
    cargo build --release -p millstream-cli
    cargo run --release -p millstream-bench -- {{ARGS}}

# The same for Kafka and PostgreSQL, which are started for it.
bench-services *ARGS="kafka kafka-latency postgres":
    cargo build --release -p millstream-cli --features kafka
    cargo run --release -p millstream-bench --features kafka,postgres -- {{ARGS}}
