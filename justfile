# Recipes for https://just.systems. Each is a command of README.md or CONTRIBUTING.md.

# The recipes.
default:
    @just --list

# All tests.
test:
    cargo test

# Everything that CI runs.
ci:
    .ci/run

# The sample data, some searches, and exit.
demo:
    cargo run --release -- --demo --once

# The documentation of the code; warnings are errors.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# One bench: engine, log, wire, mailbox, kernels; walk and end_to_end take `--data DIR`.
bench name="engine" *arguments:
    cargo bench --bench {{name}} -- {{arguments}}
