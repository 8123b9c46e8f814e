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
