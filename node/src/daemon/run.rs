//! Between the core's jobs and the executor's: what to run, and how its end is told.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use clawmesh_protocol::{
    codec, face,
    ids::{Attempt, TaskId},
    io::{self, Job},
    record::{End, clip},
    skill::{Catalogue, SkillInfo},
    spec::{Data, INLINE_MAX, Kind, PAYLOAD_MAX, Work},
};

use crate::{
    exec::{self, SkillInput},
    facts::Facts,
    skills::{Scan, Skill},
    store::{BlobHash, Store},
};

/// The skills as last read, for whoever starts one.
pub(crate) type Shelf = Arc<RwLock<Scan>>;

/// Turns a job of the core into one of the executor.
///
/// # Errors
/// A sentence: the payload or the skill is not what it was.
pub(crate) async fn prepare(job: &Job, store: &Store, shelf: &Shelf, dir_root: PathBuf) -> Result<exec::Job, String> {
    let bytes = match &job.payload {
        Data::Inline(b) => b.0.clone(),
        Data::Blob(h, _) => {
            store.blobs().read_async(BlobHash(h.0), PAYLOAD_MAX).await.map_err(|e| format!("the task's input can't be read: {e}"))?
        }
    };
    let work: Work = codec::decode(&bytes).map_err(|e| format!("the task's input can't be read: {e}"))?;
    let (run, skill_timeout) = program(job, &work, shelf)?;
    let asked = (job.need.run_timeout_ms > 0).then(|| Duration::from_millis(job.need.run_timeout_ms));
    Ok(exec::Job {
        key: key(&job.id, &job.attempt),
        work: run,
        timeout: asked.or(skill_timeout),
        fence: job.fence.clone(),
        env: work.env,
        dir_root,
        output_cap: exec::OUTPUT_CAP_DEFAULT,
    })
}

/// The executor's name of an attempt.
pub(crate) fn key(id: &TaskId, attempt: &Attempt) -> exec::JobKey {
    let peer = attempt.epoch.peer.to_string();
    let tail = peer.get(peer.len().saturating_sub(8)..).unwrap_or_default();
    exec::JobKey { task: id.to_string(), attempt: attempt.k, issue: format!("{}-{tail}", attempt.epoch.n) }
}

fn program(job: &Job, work: &Work, shelf: &Shelf) -> Result<(exec::Work, Option<Duration>), String> {
    let input = work.input.0.clone();
    Ok(match job.need.kind {
        Kind::Command => (exec::Work::Command { argv: work.argv.clone() }, None),
        Kind::Builtin => (builtin(&job.need.skill, input)?, None),
        Kind::Skill => {
            let scan = shelf.read().unwrap_or_else(PoisonError::into_inner);
            let name = &job.need.skill;
            let skill = scan.skill(name).filter(|s| s.eligible).ok_or_else(|| format!("the skill '{name}' is no longer here"))?;
            let run =
                skill.run.as_ref().ok_or_else(|| format!("the skill '{name}' has no 'metadata.clawmesh.run': only an agent can use it"))?;
            let w = exec::Work::Skill {
                dir: skill.dir.clone(),
                run: run.argv.clone(),
                input: run.input,
                stdin: input,
                json_output: run.json_output,
            };
            (w, run.timeout)
        }
    })
}

/// The builtins take plain text, or JSON: `sleep` a number of seconds (or `{"seconds": n}`), `fail` a
/// message (or `{"message": …, "code": n}`), `echo` anything.
fn builtin(name: &str, input: Vec<u8>) -> Result<exec::Work, String> {
    let json: Option<serde_json::Value> = serde_json::from_slice(&input).ok();
    match name {
        "echo" => Ok(exec::Work::Echo { input }),
        "sleep" => {
            let seconds = json
                .as_ref()
                .and_then(|v| v.as_f64().or_else(|| v.get("seconds").and_then(serde_json::Value::as_f64)))
                .filter(|s| (0.0..=30.0 * 86_400.0).contains(s))
                .ok_or("sleep takes a number of seconds, as in --input '{\"seconds\": 2}' or --input 2")?;
            Ok(exec::Work::Sleep { dur: Duration::from_secs_f64(seconds) })
        }
        "fail" => {
            let text = |v: &serde_json::Value| v.as_str().map(str::to_owned);
            let message = json.as_ref().and_then(|v| text(v).or_else(|| v.get("message").and_then(text)));
            let code = json.as_ref().and_then(|v| v.get("code")).and_then(serde_json::Value::as_i64).and_then(|c| i32::try_from(c).ok());
            let plain = || String::from_utf8_lossy(&input).into_owned();
            let message =
                message.unwrap_or_else(|| if json.is_some() || input.is_empty() { "it was asked to fail".into() } else { plain() });
            Ok(exec::Work::Fail { message, code: code.unwrap_or(1) })
        }
        other => Err(format!("this version has no builtin '{other}'")),
    }
}

/// The end of an attempt as the core wants it: what it wrote is durable before it is told.
pub(crate) async fn ended(exit: exec::Exit, leaving: bool, store: &Store) -> io::Exit {
    let ran_ms = u64::try_from(exit.wall.as_millis()).unwrap_or(u64::MAX);
    let end = match exit.kind {
        exec::Kind::Done => End::Done,
        exec::Kind::Failed | exec::Kind::SpawnError => End::Failed,
        exec::Kind::Timeout => End::Timeout,
        exec::Kind::Killed if leaving => End::Returned,
        exec::Kind::Killed => End::Cancelled,
    };
    let code = match exit.kind {
        exec::Kind::Done => Some(0),
        exec::Kind::Killed => exit.code,
        _ => Some(exit.shell_code()),
    };
    let mut why = clip(&exit.reason, 200);
    let bytes = io::capture(exit.stdout, exit.stderr, exit.stdout_truncated, exit.stderr_truncated);
    let data = match keep(bytes, store).await {
        Ok(d) => d,
        Err(e) => {
            why = clip(&format!("{why} (its output could not be kept: {e})"), 200);
            Data::EMPTY
        }
    };
    io::Exit { end, code, why, data, ran_ms }
}

/// An attempt that could not be started.
pub(crate) fn not_started(why: &str) -> io::Exit {
    let data = Data::EMPTY;
    io::Exit { end: End::Failed, code: Some(126), why: clip(why, 200), data, ran_ms: 0 }
}

/// Bytes in place when small, else as a durable blob.
///
/// # Errors
/// A sentence of the blob store.
pub(crate) async fn keep(bytes: Vec<u8>, store: &Store) -> Result<Data, String> {
    if bytes.len() <= INLINE_MAX {
        return Ok(Data::Inline(codec::Blob(bytes)));
    }
    let len = bytes.len() as u64;
    let hash = store.blobs().put_async(bytes).await.map_err(|e| e.to_string())?;
    Ok(Data::Blob(clawmesh_protocol::ids::Hash(hash.0), len))
}

/// What this node advertises: its eligible skills, as far as one message holds them.
pub(crate) fn catalogue(scan: &Scan) -> Catalogue {
    let skills = scan.skills.iter().filter(|s| s.eligible).map(info).collect();
    let mut c = Catalogue { skills, ext: codec::Ext::default() };
    let dropped = c.fit();
    if dropped > 0 {
        tracing::warn!(dropped, "this node has more skills than it can advertise: the last ones by name are left out");
    }
    c
}

fn info(s: &Skill) -> SkillInfo {
    let input = s.run.as_ref().map_or("", |r| match r.input {
        SkillInput::Json => "json",
        SkillInput::Text => "text",
        SkillInput::None => "none",
    });
    let timeout = s.run.as_ref().and_then(|r| r.timeout).unwrap_or_default();
    SkillInfo {
        name: clip(&s.name, 128),
        hash: s.hash.to_hex().to_string(),
        version: clip(s.version.as_deref().unwrap_or_default(), 32),
        description: clip(&s.description, 200),
        category: clip(s.category.as_deref().unwrap_or_default(), 64),
        tags: s.tags.iter().take(16).map(|t| clip(t, 32)).collect(),
        runnable: s.run.is_some(),
        depends: s.depends.iter().take(16).map(|d| clip(d, 160)).collect(),
        cpu_milli: s.resources.cpu_milli,
        memory_mib: s.resources.memory_bytes.div_ceil(1 << 20),
        gpu_milli: s.resources.gpu_milli,
        custom: s.resources.custom.iter().take(8).map(|(k, n)| (clip(k, 32), *n)).collect(),
        input: input.into(),
        json_output: s.run.as_ref().is_some_and(|r| r.json_output),
        timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        ext: codec::Ext::default(),
    }
}

/// The machine in the core's terms.
pub(crate) fn facts(f: &Facts) -> face::Facts {
    let mib = |b: u64| b >> 20;
    face::Facts {
        host: f.host_name.clone(),
        platform: f.platform.into(),
        arch: f.architecture.into(),
        addresses: f.addresses.iter().take(16).map(|a| a.ip.to_string()).collect(),
        cpus: f.cpu_count,
        // The share is between 0 and 100.
        cpu_percent: f.cpu_percent.map_or(0, |p| p.clamp(0.0, 100.0) as u32),
        memory_mib: mib(f.memory_total),
        memory_free_mib: mib(f.memory_available),
        disk_mib: mib(f.disk_total),
        disk_free_mib: mib(f.disk_free),
    }
}
