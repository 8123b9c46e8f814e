//! Flags that describe a task, shared by `run`, `submit` and `ask`.

use std::time::Duration;

use bytesize::ByteSize;
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use clawmesh_protocol::{
    face::{NewTask, State},
    spec::{OnLost, OnSplit, Priority, RETRIES_MAX, Strategy, TIMEOUT_MAX_MS},
};

use crate::client::Submission;

/// What the task asks for, as typed.
#[derive(Debug, Default, Args)]
pub(super) struct TaskFlags {
    /// Further attempts after the first when it fails.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(RETRIES_MAX)))]
    retries: u32,
    /// Pause before the second attempt; doubles with each further one [default: 1s].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    backoff: Option<Duration>,
    /// Time limit of one attempt.
    #[arg(long, value_name = "DURATION", value_parser = limit)]
    timeout: Option<Duration>,
    /// Longest wait in the queue.
    #[arg(long, value_name = "DURATION", value_parser = limit)]
    queue_timeout: Option<Duration>,
    /// Time limit from submit to result.
    #[arg(long, value_name = "DURATION", value_parser = limit)]
    total_timeout: Option<Duration>,
    /// Urgency [default: normal].
    #[arg(long, value_name = "PRIORITY", value_parser = priority())]
    priority: Option<Priority>,
    /// How to choose the node [default: the mesh's strategy].
    #[arg(long, value_name = "STRATEGY", value_parser = strategy())]
    strategy: Option<Strategy>,
    /// Run on this node (name or id) or nowhere.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    node: Option<String>,
    /// A label the node must have; may be given several times.
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// Idempotency key: submitting the same task again with the same key joins the one that is there.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Environment variable of the task; may be given several times.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = env)]
    envs: Vec<(String, String)>,
    /// Never start it twice; needs --node, or a mesh with voters ('clawmesh quorum').
    #[arg(long)]
    at_most_once: bool,
    /// When its node is lost: run it elsewhere, or give it up [default: requeue].
    #[arg(long, value_name = "WHAT", value_parser = on_lost())]
    on_lost: Option<OnLost>,
    /// On the smaller side of a split: run it, wait for a while, or never run it there [default: wait].
    #[arg(long, value_name = "WHAT", value_parser = on_split())]
    on_split: Option<OnSplit>,
    /// A file that lies as NAME in the task's working directory: a local FILE, or a blob by its HASH; may be given several times.
    #[arg(long = "in", value_name = "NAME=FILE|HASH", value_parser = super::blobs::input)]
    pub(super) ins: Vec<(String, String)>,
    /// A file of the working directory that is kept as a blob after the end, or a pattern with '*', '**' and '?'; may be given several
    /// times.
    #[arg(long = "out", value_name = "NAME|GLOB")]
    outs: Vec<String>,
    /// Cores it wants.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4_096))]
    cpus: Option<u32>,
    /// Memory it wants, as in 512MiB.
    #[arg(long, value_name = "SIZE", value_parser = memory_mib)]
    memory: Option<u64>,
}

impl TaskFlags {
    /// The task, without its command or skill.
    pub(super) fn submission(self) -> Submission {
        let task = NewTask {
            env: self.envs,
            priority: self.priority,
            strategy: self.strategy,
            labels: self.labels,
            retries: self.retries,
            backoff_ms: self.backoff.map(millis),
            timeout_ms: self.timeout.map(millis),
            queue_timeout_ms: self.queue_timeout.map(millis),
            total_timeout_ms: self.total_timeout.map(millis),
            on_lost: self.on_lost,
            on_split: self.on_split,
            at_most_once: self.at_most_once,
            key: self.key,
            cpus: self.cpus,
            memory_mib: self.memory,
            user: user(),
            outs: self.outs,
            ..NewTask::default()
        };
        Submission { task, node: self.node }
    }
}

/// Who submits, for people: the login name.
pub(super) fn user() -> Option<String> {
    ["USER", "USERNAME"].iter().find_map(|v| std::env::var(v).ok()).map(|u| u.chars().take(64).collect()).filter(|u: &String| !u.is_empty())
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// A time span as people write it: `90s`, `1m 30s`, `500ms`.
pub(super) fn duration(typed: &str) -> Result<Duration, String> {
    let d = humantime::parse_duration(typed).map_err(|e| format!("{e}; write it as 500ms, 90s, 2m or 1h"))?;
    if millis(d) > TIMEOUT_MAX_MS {
        return Err("it is more than 30 days".into());
    }
    Ok(d)
}

/// A time limit: at least 1 ms, because 0 would mean none.
pub(super) fn limit(typed: &str) -> Result<Duration, String> {
    let d = duration(typed)?;
    if d < Duration::from_millis(1) { Err("a time limit is at least 1ms: leave the flag out for none".into()) } else { Ok(d) }
}

fn env(typed: &str) -> Result<(String, String), String> {
    match typed.split_once('=') {
        Some((name, value)) if !name.is_empty() && !typed.contains('\0') => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".into()),
    }
}

fn memory_mib(typed: &str) -> Result<u64, String> {
    let size: ByteSize = typed.parse().map_err(|_| "write it as 512MiB or 2GiB".to_owned())?;
    match size.as_u64() {
        0 => Err("it must be more than nothing".into()),
        bytes => Ok(bytes.div_ceil(1 << 20)),
    }
}

/// A choice by its word, with the possible words in the help and in mistakes.
fn choice<T>(words: Vec<&'static str>) -> impl TypedValueParser<Value = T>
where
    T: std::str::FromStr<Err = String> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|s| s.parse::<T>())
}

fn priority() -> impl TypedValueParser<Value = Priority> {
    choice(Priority::ALL.iter().map(|p| p.word()).collect())
}

/// A strategy by its word.
pub(super) fn strategy() -> impl TypedValueParser<Value = Strategy> {
    choice(Strategy::ALL.iter().map(|p| p.word()).collect())
}

fn on_lost() -> impl TypedValueParser<Value = OnLost> {
    choice(OnLost::ALL.iter().map(|p| p.word()).collect())
}

fn on_split() -> impl TypedValueParser<Value = OnSplit> {
    choice(OnSplit::ALL.iter().map(|p| p.word()).collect())
}

/// A state by its word.
pub(super) fn state() -> impl TypedValueParser<Value = State> {
    PossibleValuesParser::new(State::ALL.map(State::word))
        .try_map(|s| State::ALL.into_iter().find(|v| v.word() == s).ok_or_else(|| format!("'{s}' is no state")))
}
