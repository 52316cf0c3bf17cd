//! Templates of any bytes, with any values: never a panic, every fault said, and values are data. What is checked stands
//! in tests/fuzz/any_template.rs, so that `cargo test` checks the same.
#![no_main]

#[path = "../../tests/fuzz/any_template.rs"]
mod any_template;
#[path = "../../tests/fuzz/simple.rs"]
mod simple;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    any_template::holds(data);
});
