# The verbs of this project. `just` alone lists them.

_list:
    @just --list --unsorted

# Formatting and lints, as CI wants them.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Put the formatting right.
fmt:
    cargo fmt --all

# The tests that need nothing but Rust.
test:
    cargo test --workspace --locked

# One world of the simulator, with its trace: just sim seed=7
sim seed="1":
    cargo run --release --locked -p clawmesh-sim -- replay --seed {{ trim_start_match(seed, "seed=") }} --trace

# Many worlds: just worlds 2000
worlds n="200":
    cargo run --release --locked -p clawmesh-sim -- run --seeds {{ n }}

# What a night is for: some hours. It goes on where it was stopped.
nightly:
    cargo build --release --locked -p clawmesh-sim
    target/release/clawmesh-sim run --seeds 50000 --gate --resume target/nightly-mixed.json
    target/release/clawmesh-sim run --profile full --seeds 3000 --from 1000000 --resume target/nightly-full.json
    target/release/clawmesh-sim run --profile laptop --seeds 200 --days 7 --resume target/nightly-laptop.json
    target/release/clawmesh-sim run --profile lying --seeds 2000 --resume target/nightly-lying.json
    target/release/clawmesh-sim mutants

# A million worlds and a hundred mesh-years, before a release: days. It goes on where it was stopped.
release-worlds:
    cargo build --release --locked -p clawmesh-sim
    target/release/clawmesh-sim run --seeds 1000000 --gate --resume target/release-mixed.json
    target/release/clawmesh-sim run --profile full --seeds 20000 --from 2000000 --resume target/release-full.json
    target/release/clawmesh-sim run --profile laptop --seeds 1200 --days 30 --resume target/release-laptop.json
    target/release/clawmesh-sim run --profile lying --seeds 20000 --resume target/release-lying.json
    target/release/clawmesh-sim mutants

# Real processes in network namespaces; needs root.
e2e:
    cargo test --locked -p clawmesh-tests -- --ignored --test-threads=1

# Three nodes here, two of them killed.
demo:
    cargo run --release --locked -- demo

# The code's own pages.
docs:
    cargo doc --workspace --no-deps --document-private-items --open

# All that CI does.
ci:
    bash .ci/run
