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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::machine::ids::ExecutionId;

    const KEY: AttemptKey = AttemptKey { execution: ExecutionId(7), task: 3, attempt: 1 };
    const SECOND: u64 = 1_000_000;

    fn policy(backoff: BackoffSpec) -> RetrySpec {
        RetrySpec { max_attempts: 10, backoff: Some(backoff), ..RetrySpec::default() }
    }

    fn delays(policy: &RetrySpec) -> Vec<u64> {
        (1..=4).map(|failures| delay(policy, KEY, failures)).collect()
    }

    #[test]
    fn the_delay_grows_as_the_policy_says() {
        // S-RETRY-1
        assert_eq!(delays(&policy(BackoffSpec::Fixed { delay: 2.5 })), [2_500_000; 4]);
        let linear = policy(BackoffSpec::Linear { initial_delay: 1.0, increment: 2.0 });
        assert_eq!(delays(&linear), [1, 3, 5, 7].map(|seconds| seconds * SECOND));
        let mut exponential = policy(BackoffSpec::Exponential { initial_delay: 1.0, multiplier: 3.0 });
        assert_eq!(delays(&exponential), [1, 3, 9, 27].map(|seconds| seconds * SECOND));
        assert_eq!(delay(&exponential, KEY, u32::MAX), 3_600 * SECOND, "an hour at most");
        exponential.max_delay_seconds = Some(5.0);
        assert_eq!(delays(&exponential), [1, 3, 5, 5].map(|seconds| seconds * SECOND));
        assert_eq!(delay(&RetrySpec::default(), KEY, 3), SECOND, "without a strategy");
    }

    #[test]
    fn only_what_the_policy_names_is_tried_again() {
        // S-RETRY-2
        let mut policy = RetrySpec { max_attempts: 3, ..RetrySpec::default() };
        let again = |policy: &RetrySpec, kind, code, message| may_retry(policy, kind, code, message, 1);
        assert!(again(&policy, ErrorKind::Timeout, None, ""), "empty: any");
        for kind in [ErrorKind::Template, ErrorKind::Cancelled, ErrorKind::Lost] {
            assert!(!again(&policy, kind, None, ""), "{kind:?}");
        }
        assert!(may_retry(&policy, ErrorKind::Signal, None, "", 2));
        assert!(!may_retry(&policy, ErrorKind::Signal, None, "", 3), "the last try");
        assert!(!may_retry(&RetrySpec::default(), ErrorKind::Signal, None, "", 1), "no policy, one try");
        policy.retry_on_errors =
            vec!["TIMEOUT".into(), "EXIT_CODE=75".into(), "/(?i)connection (reset|refused)/".into()];
        assert!(again(&policy, ErrorKind::Timeout, None, ""));
        assert!(again(&policy, ErrorKind::ExitCode, Some(75), ""));
        assert!(!again(&policy, ErrorKind::ExitCode, Some(1), ""));
        assert!(again(&policy, ErrorKind::ExitCode, Some(1), "curl: Connection refused"));
        assert!(!again(&policy, ErrorKind::Signal, None, ""));
        policy.retry_on_errors = vec!["TEMPLATE".into(), "/.*/".into()];
        assert!(!again(&policy, ErrorKind::Template, None, "x"), "the same values fail the same way");
        policy.retry_on_errors = vec!["/(/".into(), "EXIT_CODE=".into(), "/".into()];
        assert!(!again(&policy, ErrorKind::ExitCode, None, "("), "what no longer compiles matches nothing");
    }

    fn any_backoff() -> impl Strategy<Value = BackoffSpec> {
        let number = prop_oneof![0.0..1e4, Just(0.0), Just(1e308), Just(1e-9)];
        (number.clone(), number, 0..3).prop_map(|(one, other, kind)| match kind {
            0 => BackoffSpec::Fixed { delay: one },
            1 => BackoffSpec::Linear { initial_delay: one, increment: other },
            _ => BackoffSpec::Exponential { initial_delay: one, multiplier: 1.0 + other },
        })
    }

    proptest! {
        #[test]
        fn a_delay_is_bounded_and_never_shrinks(backoff in any_backoff(), most in 0.0..1e5, n in 1_u32..2_000, more in 0_u32..2_000) {
            // S-RETRY-1
            let policy = RetrySpec { max_delay_seconds: Some(most), ..policy(backoff) };
            let (one, later) = (delay(&policy, KEY, n), delay(&policy, KEY, n + more));
            prop_assert!(one <= later, "{one} then {later}");
            prop_assert!(later <= micros(most));
        }

        #[test]
        fn jitter_takes_its_part_at_most_and_always_the_same(
            jitter in 0.0..=1.0, execution in any::<u128>(), task in any::<u32>(), attempt in any::<u32>(),
        ) {
            // S-RETRY-1
            let policy = RetrySpec { jitter, ..policy(BackoffSpec::Fixed { delay: 1_000.0 }) };
            let key = AttemptKey { execution: ExecutionId(execution), task, attempt };
            let chosen = delay(&policy, key, 1);
            let least = micros(1_000.0 * (1.0 - jitter));
            prop_assert!((least..=1_000 * SECOND).contains(&chosen), "{chosen}");
            prop_assert_eq!(chosen, delay(&policy, key, 1));
            prop_assert!((0.0..1.0).contains(&chance(key)));
        }

        #[test]
        fn nonsense_in_a_stored_policy_is_a_delay_all_the_same(a in any::<f64>(), b in any::<f64>(), jitter in any::<f64>(), n in any::<u32>()) {
            for backoff in [
                BackoffSpec::Fixed { delay: a },
                BackoffSpec::Linear { initial_delay: a, increment: b },
                BackoffSpec::Exponential { initial_delay: a, multiplier: b },
            ] {
                let policy = RetrySpec { jitter, ..policy(backoff) };
                prop_assert!(delay(&policy, KEY, n) <= 3_600 * SECOND);
            }
        }
    }

    #[test]
    fn every_noxd_chooses_the_same_delay() {
        // S-RETRY-1: worked out by a second program after the paper; the first is SplitMix64's own for the seed 0.
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF);
        let execution = ExecutionId(0x0123_4567_89AB_CDEF_FEDC_BA98_7654_3210);
        let all = u32::MAX;
        for (key, part) in [
            (KEY, 2_426_913_319_u32),
            (AttemptKey { execution, task: 0, attempt: 1 }, 1_564_915_324),
            (AttemptKey { execution, task: 99_999, attempt: 2 }, 1_730_843_310),
            (AttemptKey { execution: ExecutionId(u128::MAX), task: all, attempt: all }, 1_499_142_132),
        ] {
            assert_eq!((chance(key) * 2_f64.powi(32)).to_bits(), f64::from(part).to_bits(), "{key:?}");
        }
        let policy = RetrySpec { jitter: 0.5, ..policy(BackoffSpec::Fixed { delay: 1_000.0 }) };
        assert_eq!(delay(&policy, KEY, 1), 717_470_104, "of 1,000 s, half of which is left to chance");
    }

    #[test]
    fn no_policy_waits_longer_than_a_hundred_years() {
        // S-RETRY-1
        let policy = RetrySpec {
            max_delay_seconds: Some(1e300),
            ..policy(BackoffSpec::Linear { initial_delay: 0.0, increment: 1e200 })
        };
        assert_eq!(delay(&policy, KEY, 2), 36_600 * 24 * 3_600 * SECOND);
    }

    #[test]
    fn chance_is_spread_over_attempts() {
        let total: f64 = (0..10_000).map(|attempt| chance(AttemptKey { attempt, ..KEY })).sum();
        assert!((4_800.0..5_200.0).contains(&total), "{total}");
    }

    // S-RETRY-2
    #[test]
    fn a_regular_expression_may_be_large_but_not_without_bound() {
        assert!(compiled("[a-z]{100}").is_ok());
        assert!(compiled("[a-z]{10000}").is_err());
    }
}
