# Shortcuts. Nothing needs `just`: each recipe is one command that can be typed by hand; `.ci/run` does without.

# What one runs before a commit: format, lints, house rules, links of the documentation.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    cargo test -p tagmill-tests --test tidy --locked
    cargo doc --workspace --no-deps --locked

# Every test, as the README says it; `just test wal` runs those whose name holds "wal".
test *FILTER:
    cargo test --workspace --locked -- {{FILTER}}

# Every crash test again, from the seed a failure printed.
crash SEED:
    TAGMILL_SEED={{SEED}} cargo test -p tagmill-engine-tests --test engine --locked -- --nocapture crash

# Plants bugs and lets the harnesses find them; `just planted SyncRetried` shows how one is found.
planted *BUGS:
    cargo run --profile planted -p tagmill-engine-tests --features planted --bin planted --locked -- {{BUGS}}

# The long figures: real faults over whole spaces, then the engine's tests with many seeds. Takes hours.
soak CASES="200":
    cargo run --release --locked -p tagmill-fault-tests -- soak
    TAGMILL_CASES={{CASES}} cargo test --release --locked -p tagmill-engine-tests -- --nocapture

# Writes the golden files that are missing. A released one never changes: delete nothing here.
golden:
    UPDATE_GOLDEN=1 cargo test --workspace --locked -- golden

# Generates the code of the wire again, after a change of a .proto file.
proto:
    UPDATE_GENERATED=1 cargo test -p tagmill-proto --locked

# One benchmark, e.g. `just bench ingest`.
bench NAME *ARGS:
    cargo bench -p tagmill-benches --bench {{NAME}} --locked -- {{ARGS}}

# One benchmark of the engine alone, which builds in seconds, e.g. `just bench-engine encoding`.
bench-engine NAME *ARGS:
    cargo bench -p tagmill-engine-benches --bench {{NAME}} --locked -- {{ARGS}}

# The plant in a box: server, simulator, five questions; stays up until Ctrl-C.
demo *ARGS:
    cargo run --release --locked -- demo {{ARGS}}

# What must pass before a merge.
ci *STEPS:
    .ci/run {{STEPS}}
