//! Schedules of any bytes: never a panic, every fault said, and the laws of `next` kept. What is checked stands in
//! tests/calendar/any_input.rs, so that `cargo test` checks the same.
#![no_main]

#[path = "../../tests/calendar/any_input.rs"]
mod any_input;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    any_input::holds(data);
});
