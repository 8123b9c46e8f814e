//! Between the core's jobs and the executor's: what to run, and how its end is told.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use clawmesh_protocol::{
    codec, face,
    files::{FILES_MAX, FileRef, OUTS_MAX, check_paths},
    ids::{Attempt, TaskId},
    io::{self, Job},
    record::{End, USAGE_TEXT_MAX, Usage, clip},
    skill::{Catalogue, SkillInfo},
    spec::{Data, INLINE_MAX, Kind, PAYLOAD_MAX, Work},
};

use super::{agent::Agents, sharing::Shared};
use crate::{
    depot::{Depot, Keep},
    exec::{self, SkillInput},
    facts::Facts,
    skills::{Scan, Skill},
    store::{BlobHash, Store},
};

/// The skills as last read, for whoever starts one.
pub(crate) type Shelf = Arc<RwLock<Scan>>;

/// Why an attempt cannot begin, as a sentence.
#[derive(Debug)]
pub(crate) enum NotReady {
    /// It would not begin anywhere.
    Wrong(String),
    /// What it needs has just gone from this node: elsewhere, or here when it is back, the attempt begins.
    Gone(String),
}

impl From<String> for NotReady {
    fn from(why: String) -> Self {
        Self::Wrong(why)
    }
}

impl NotReady {
    /// What the core is told.  `once`: the task must not run twice; its one attempt is over, and that it never began is all
    /// there is to say.
    pub(crate) fn into_exit(self, once: bool) -> io::Exit {
        match self {
            Self::Wrong(why) => not_started(&why),
            Self::Gone(why) if once => not_started(&why),
            Self::Gone(why) => io::Exit { end: End::Returned, code: None, ..not_started(&why) },
        }
    }
}

/// Turns a job of the core into one of the executor.
///
/// # Errors
/// The payload, the skill or the agent is not what it was.
pub(crate) async fn prepare(
    job: &Job,
    store: &Store,
    shelf: &Shelf,
    agents: &Agents,
    shared: &Shared,
    dir_root: PathBuf,
) -> Result<exec::Job, NotReady> {
    let bytes = match &job.payload {
        Data::Inline(b) => b.0.clone(),
        Data::Blob(h, _) => {
            store.blobs().read_async(BlobHash(h.0), PAYLOAD_MAX).await.map_err(|e| format!("the task's input can't be read: {e}"))?
        }
    };
    let work: Work = codec::decode(&bytes).map_err(|e| format!("the task's input can't be read: {e}"))?;
    let files = inputs(job, &work, shared).await?;
    let asked = (job.need.run_timeout_ms > 0).then(|| Duration::from_millis(job.need.run_timeout_ms));
    let (run, timeout) = if job.agent {
        by_agent(job, &work, shelf, agents, asked)?
    } else {
        let (run, skill_timeout) = program(job, &work, shelf)?;
        (run, asked.or(skill_timeout))
    };
    Ok(exec::Job {
        key: key(&job.id, &job.attempt),
        work: run,
        timeout,
        fence: job.fence.clone(),
        env: work.env,
        dir_root,
        output_cap: exec::OUTPUT_CAP_DEFAULT,
        files,
    })
}

/// The task's input files, fetched when they are not here, and held until the attempt is over.
async fn inputs(job: &Job, work: &Work, shared: &Shared) -> Result<exec::Files, String> {
    if work.files.len() > FILES_MAX || work.outs.len() > OUTS_MAX {
        return Err(format!("the task names more than {FILES_MAX} input files or {OUTS_MAX} output names"));
    }
    check_paths(work.files.iter().map(|f| f.name.as_str())).map_err(|why| format!("input files: {why}"))?;
    let holders: Vec<_> = job.need.holders.iter().map(|h| h.peer).collect();
    let mut ins = Vec::with_capacity(work.files.len());
    for file in &work.files {
        let failed = |e: String| format!("the input file '{}' cannot be had: {e}", file.name);
        shared.input(file.blob, holders.clone()).await.map_err(failed)?;
        let lease = shared.depot.lease(BlobHash(file.blob.0)).map_err(|e| failed(e.to_string()))?;
        ins.push(exec::InFile { name: file.name.clone(), path: lease.path().to_owned(), hold: exec::Hold(Arc::new(lease)) });
    }
    Ok(exec::Files { ins, outs: work.outs.clone(), stage: shared.depot.staging() })
}

/// Makes blobs of the output files of an attempt; what could not be kept is told.
async fn outputs(kept: exec::Kept, task: &TaskId, depot: &Depot) -> (Vec<FileRef>, Vec<String>) {
    let (depot, task) = (depot.clone(), task.short().to_string());
    let taken = tokio::task::spawn_blocking(move || {
        let (mut files, mut notes) = (Vec::new(), kept.notes);
        let mut stage = None;
        for (name, path) in kept.files {
            let keep = Keep { name: format!("{task}: {name}"), result: true, ..Keep::default() };
            match depot.take(&path, &keep) {
                Ok((hash, entry)) => files.push(FileRef::new(name, clawmesh_protocol::ids::Hash(hash.0), entry.len)),
                Err(e) => notes.push(format!("the output file '{name}' could not be kept: {e}")),
            }
            stage = path.parent().map(PathBuf::from);
        }
        if let Some(stage) = stage {
            // Empty now; what is not goes at the next start.
            let _ = std::fs::remove_dir_all(stage);
        }
        (files, notes)
    });
    taken.await.unwrap_or_default()
}

/// The executor's name of an attempt.
pub(crate) fn key(id: &TaskId, attempt: &Attempt) -> exec::JobKey {
    let peer = attempt.epoch.peer.to_string();
    let tail = peer.get(peer.len().saturating_sub(8)..).unwrap_or_default();
    exec::JobKey { task: id.to_string(), attempt: attempt.k, issue: format!("{}-{tail}", attempt.epoch.n) }
}

/// A prompt, or a skill that only an agent can follow.
fn by_agent(
    job: &Job,
    work: &Work,
    shelf: &Shelf,
    agents: &Agents,
    limit: Option<Duration>,
) -> Result<(exec::Work, Option<Duration>), NotReady> {
    let name = job.need.skill.as_str();
    let dir = if name.is_empty() { None } else { Some(skill_here(shelf, name)?.dir) };
    let skill = dir.as_deref().map(|dir| (name, dir));
    let (run, force) = agents.run(work.input.0.clone(), skill, limit).map_err(NotReady::Gone)?;
    Ok((exec::Work::Agent(Box::new(run)), Some(force)))
}

/// The skill, if it is really there: its folder may have gone since the last look.
fn skill_here(shelf: &Shelf, name: &str) -> Result<Skill, NotReady> {
    let scan = shelf.read().unwrap_or_else(PoisonError::into_inner);
    let skill = scan.skill(name).filter(|s| s.eligible && s.dir.is_dir()).cloned();
    skill.ok_or_else(|| NotReady::Gone(format!("the skill '{name}' has just gone from this node")))
}

fn program(job: &Job, work: &Work, shelf: &Shelf) -> Result<(exec::Work, Option<Duration>), NotReady> {
    let input = work.input.0.clone();
    Ok(match job.need.kind {
        Kind::Command => (exec::Work::Command { argv: work.argv.clone() }, None),
        Kind::Builtin => (builtin(&job.need.skill, input)?, None),
        Kind::Prompt => return Err(NotReady::Wrong("BUG: a prompt was to be run without an agent".into())),
        Kind::Skill => {
            let name = &job.need.skill;
            let skill = skill_here(shelf, name)?;
            let run = skill.run.as_ref().ok_or_else(|| {
                NotReady::Gone(format!("the skill '{name}' has no 'metadata.clawmesh.run' any more: only an agent can use it"))
            })?;
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
pub(crate) async fn ended(exit: exec::Exit, task: &TaskId, leaving: bool, store: &Store, depot: &Depot) -> io::Exit {
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
    let (files, notes) = outputs(exit.kept, task, depot).await;
    let mut why = clip(&exit.reason, 200);
    if !notes.is_empty() {
        why = clip(&format!("{why}; {}", notes.join("; ")), 200);
    }
    let mut captured = io::captured(exit.stdout, exit.stderr, exit.stdout_truncated, exit.stderr_truncated);
    captured.usage = exit.usage.map(usage);
    captured.files = files;
    let bytes = codec::encode(&captured);
    let data = match keep(bytes, store).await {
        Ok(d) => d,
        Err(e) => {
            why = clip(&format!("{why} (its output could not be kept: {e})"), 200);
            Data::EMPTY
        }
    };
    io::Exit { end, code, why, data, ran_ms }
}

fn usage(u: exec::agent::Usage) -> Usage {
    let text = |t: String| clip(&t, USAGE_TEXT_MAX);
    Usage {
        agent: text(u.agent),
        provider: text(u.provider),
        model: text(u.model),
        input: u.input,
        output: u.output,
        total: u.total,
        tool_calls: u.tool_calls,
        turns: u.turns,
        ext: codec::Ext::default(),
    }
}

/// An attempt that was ended before its start, while its inputs were fetched.
pub(crate) fn given_up(leaving: bool) -> io::Exit {
    let (end, why) = if leaving { (End::Returned, "this node stops") } else { (End::Cancelled, "it was cancelled before its start") };
    io::Exit { end, code: None, why: why.into(), data: Data::EMPTY, ran_ms: 0 }
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
