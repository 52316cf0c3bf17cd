# The steps of CI, one by one; `.ci/run` is all of them with a table at the end.

# Lists the recipes.
default:
    @just --list

# Everything that CI checks.
ci:
    .ci/run

# The format, as rustfmt.toml says.
fmt:
    .ci/run fmt

# The lints of Cargo.toml and the bans of clippy.toml.
clippy:
    .ci/run clippy

# The pure machine builds alone.
core:
    .ci/run core

# The fences bite.
fences:
    .ci/run fences

# The protos: lint, comments, and nothing broken since the commit before.
protos:
    .ci/run protos

# Licences, duplicates and sources of the dependencies.
deny:
    .ci/run deny

# All tests that need nothing but Rust.
test:
    .ci/run test

# Thousands of simulated stories of the machine, the engine and its store.
sim:
    .ci/run sim

# Each fuzz target for a while.
fuzz:
    .ci/run fuzz

# Bugs made on purpose, each of which the simulation must find; an hour where the build is cold.
bugs:
    .ci/bugs

# Kills, failing calls, power cuts and a full disk for a real noxd; the last three need strace or root.
faults:
    .ci/run faults

# Python and buf as clients of a real noxd.
clients:
    .ci/run clients
