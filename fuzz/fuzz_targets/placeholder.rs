//! Fields and expressions of any bytes, with any value: never a panic, every fault said, and what was put in is never
//! looked at again. What is checked stands in tests/fuzz/any_placeholder.rs, so that `cargo test` checks the same.
#![no_main]

#[path = "../../tests/fuzz/any_placeholder.rs"]
mod any_placeholder;
#[path = "../../tests/fuzz/simple.rs"]
mod simple;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    any_placeholder::holds(data);
});
