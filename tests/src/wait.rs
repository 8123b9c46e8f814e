//! Patience: conditions are asked for until they hold.

use std::{
    fmt::Display,
    thread,
    time::{Duration, Instant},
};

/// Enough for what takes milliseconds on an idle machine.
pub const SHORT: Duration = Duration::from_secs(10);
/// Enough for elections, takeovers and restarts on a busy machine with two cores.
pub const LONG: Duration = Duration::from_secs(45);
/// Enough for hundreds of tasks on a busy machine with two cores.
pub const AGES: Duration = Duration::from_secs(120);
/// Pause between two questions: short against everything that is waited for, long against the cost of a question.
const PAUSE: Duration = Duration::from_millis(30);

/// Asks until the condition gives a value, which is returned.  The error of the last question is the failure's message.
///
/// # Panics
/// When the deadline has passed: the test fails, and says what it waited for and what it saw last.
#[track_caller]
pub fn wait_until<T, E: Display>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(value) => return value,
            Err(seen) if start.elapsed() > limit => {
                panic!("waited {:.1} s in vain until {what}; last seen: {seen}", start.elapsed().as_secs_f64())
            }
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Asks for the whole of `span` and fails at once when the condition ends: for things that must *not* happen, where
/// nothing can be awaited.
///
/// # Panics
/// When the condition does not hold.
#[track_caller]
pub fn holds_for<E: Display>(what: &str, span: Duration, mut ask: impl FnMut() -> Result<(), E>) {
    let start = Instant::now();
    while start.elapsed() < span {
        if let Err(seen) = ask() {
            panic!("{what} did not last: after {:.1} s: {seen}", start.elapsed().as_secs_f64());
        }
        thread::sleep(PAUSE);
    }
}
