//! Whether and when a failed task is tried again (S-RETRY-1, S-RETRY-2).
//!
//! The clock is the caller's: this gives a span, and the same one for the same attempt everywhere.

use super::{
    ids::AttemptKey,
    message::ErrorKind,
    workflow::{BackoffSpec, RetrySpec},
};

/// The delay where the policy has no strategy, in seconds.
const DEFAULT_DELAY: f64 = 1.0;
/// Bounds the delay where the policy does not, in seconds.
const DEFAULT_MAX_DELAY: f64 = 3_600.0;
/// A hundred years, in seconds: no bound of a policy goes beyond.
const LONGEST: f64 = 100.0 * 366.0 * 86_400.0;
/// Largest compiled form of an expression in `retry_on_errors`, in bytes.
pub const MAX_REGEX_BYTES: usize = 64 * 1_024;

/// How long to wait after an attempt that failed, in microseconds; at most the policy's `max_delay`.
///
/// `counted_failures` has this one in it, so it is at least 1. `key` is the attempt that failed: by it alone chance
/// takes its part of the delay, so that every noxd chooses the same.
pub fn delay(policy: &RetrySpec, key: AttemptKey, counted_failures: u32) -> u64 {
    let n = f64::from(counted_failures.saturating_sub(1));
    let backoff = match policy.backoff {
        None => DEFAULT_DELAY,
        Some(BackoffSpec::Fixed { delay }) => delay,
        Some(BackoffSpec::Linear { initial_delay, increment }) => initial_delay + n * increment,
        // 0 · ∞ is no number, and nothing stays nothing.
        Some(BackoffSpec::Exponential { initial_delay: 0.0, .. }) => 0.0,
        Some(BackoffSpec::Exponential { initial_delay, multiplier }) => initial_delay * multiplier.powf(n),
    };
    let most = bounded(policy.max_delay_seconds.unwrap_or(DEFAULT_MAX_DELAY), LONGEST);
    let jitter = bounded(policy.jitter, 1.0);
    micros(bounded(backoff, most) * (1.0 - jitter * chance(key)))
}

/// Between 0 and the bound; what is no number is 0.
fn bounded(value: f64, most: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(0.0, most) }
}

/// Between 0 and 1, without 1: the same for the same attempt.
fn chance(key: AttemptKey) -> f64 {
    let bytes = key.execution.0.to_be_bytes();
    let (high, low) = bytes.split_at(8);
    let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let place = u64::from(key.task) << 32 | u64::from(key.attempt);
    let mixed = [word(high), word(low), place].into_iter().fold(0, |state: u64, word| mix(state ^ word));
    // 32 bits are exact in a double and fine enough for a delay.
    let [.., a, b, c, d] = mixed.to_le_bytes();
    f64::from(u32::from_le_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
}

/// The step of SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

fn micros(seconds: f64) -> u64 {
    let span = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Whether a task is tried again after an attempt that failed so.
///
/// `counted_attempts` has this one in it; interrupted ones do not count. TEMPLATE, CANCELLED and LOST are never tried
/// again by a policy: the same values fail the same way, a cancel is meant, and what noxd lost is queued by S-RETRY-7.
pub fn may_retry(
    policy: &RetrySpec,
    kind: ErrorKind,
    exit_code: Option<i32>,
    message: &str,
    counted_attempts: u32,
) -> bool {
    if counted_attempts >= policy.max_attempts
        || matches!(kind, ErrorKind::Template | ErrorKind::Cancelled | ErrorKind::Lost)
    {
        return false;
    }
    let entries = &policy.retry_on_errors;
    entries.is_empty() || entries.iter().any(|entry| matches(entry, kind, exit_code, message))
}

fn matches(entry: &str, kind: ErrorKind, exit_code: Option<i32>, message: &str) -> bool {
    if let Some(expression) = expression(entry) {
        // One that was stored and no longer compiles matches nothing.
        return compiled(expression).is_ok_and(|regex| regex.is_match(message));
    }
    match entry.strip_prefix("EXIT_CODE=") {
        Some(code) => kind == ErrorKind::ExitCode && exit_code.is_some() && code.parse().ok() == exit_code,
        None => entry == kind.as_str(),
    }
}

/// The regular expression of an entry `/…/`.
fn expression(entry: &str) -> Option<&str> {
    entry.strip_prefix('/')?.strip_suffix('/')
}

fn compiled(expression: &str) -> Result<regex::Regex, regex::Error> {
    regex::RegexBuilder::new(expression).size_limit(MAX_REGEX_BYTES).build()
}
