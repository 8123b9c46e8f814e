//! Commands about the node itself: down, status, nodes, invite, metrics, version.

use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use clap::Subcommand;
use sysinfo::{Pid, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System};

use super::Context;
use crate::{
    api::announced,
    client::{Client, ClientError},
    output::{EXIT_WAIT, Failure, Mode, Output},
};

/// Pause between two looks whether the node is gone.
const GONE_PAUSE: Duration = Duration::from_millis(20);
/// Looks whether the node is gone: 15 s in all.  It stops in two.
const GONE_LOOKS: usize = 750;

/// The group; without a word it lists.
#[derive(Debug, Subcommand)]
pub(super) enum Nodes {
    /// List the nodes of the mesh.
    Ls,
    /// This node takes no new tasks; running ones go on.
    Drain,
    /// This node takes tasks again.
    Resume,
    /// Forget a node that is gone for good: what it submitted and has not ended is given up.
    Forget {
        /// Its name or id.
        node: String,
    },
}

/// The group.
#[derive(Debug, Subcommand)]
pub(super) enum Mesh {
    /// After a split or the loss of most nodes: the nodes in reach are the mesh, and run what is held back.
    ///
    /// The smaller side of a split holds tasks back for ten minutes that the other side may run, too. Say this when the
    /// others will not come back soon: a task that they run as well runs twice; its submitter sees one result.
    Adopt,
}

/// The group.
pub(super) async fn mesh(cx: &Context, what: Mesh) -> Result<(), Failure> {
    let client = cx.client()?;
    match what {
        Mesh::Adopt => {
            client.adopt().await?;
            cx.output.note("the nodes in reach are the mesh: nothing is held back");
            cx.output.value(&serde_json::json!({ "adopted": true }), |_| Ok(()))
        }
    }
}

/// Stops the node and waits until it is gone.
pub(super) async fn down(cx: &Context) -> Result<(), Failure> {
    let client = cx.client()?;
    let file = client.file().clone();
    client.stop().await?;
    let look = || async {
        let same = announced(&cx.home).ok().flatten().is_some_and(|f| f == file);
        if same || alive(file.pid) { Err(()) } else { Ok(()) }
    };
    let pauses = ConstantBuilder::default().with_delay(GONE_PAUSE).with_max_times(GONE_LOOKS);
    look.retry(pauses).await.map_err(|()| {
        Failure::new(EXIT_WAIT, "timed_out", format!("the node (process {}) has not ended after 15 s, though it was asked to", file.pid))
            .next("clawmesh status")
    })?;
    cx.output.note("the node has stopped");
    cx.output.value(&serde_json::json!({ "stopped": true, "pid": file.pid }), |_| Ok(()))
}

/// Who is who.
pub(super) async fn status(cx: &Context) -> Result<(), Failure> {
    let report = cx.client()?.status().await?;
    cx.output.status(&report)?;
    let alone = report.view.members.len() <= 1;
    cx.output.hint(if alone { "clawmesh invite (prints the ticket for another machine)" } else { "clawmesh run -- uname -a" });
    Ok(())
}

/// The members.
pub(super) async fn nodes(cx: &Context, what: Option<Nodes>) -> Result<(), Failure> {
    let client = cx.client()?;
    match what.unwrap_or(Nodes::Ls) {
        Nodes::Ls => cx.output.nodes(&client.nodes().await?),
        Nodes::Drain => {
            client.drain().await?;
            cx.output.note("this node takes no new tasks");
            cx.output.hint("clawmesh nodes resume");
            cx.output.value(&serde_json::json!({ "draining": true }), |_| Ok(()))
        }
        Nodes::Forget { node } => {
            client.forget(&node).await?;
            cx.output.note(&format!("{node} is forgotten; it can only come back with an empty home"));
            cx.output.value(&serde_json::json!({ "forgotten": node }), |_| Ok(()))
        }
        Nodes::Resume => {
            client.resume().await?;
            cx.output.note("this node takes tasks again");
            cx.output.value(&serde_json::json!({ "draining": false }), |_| Ok(()))
        }
    }
}

/// The ticket alone on stdout; from the home's files when no node is running.
pub(super) async fn invite(cx: &Context) -> Result<(), Failure> {
    let live = async { Client::open(&cx.home)?.invite().await };
    let ticket = match live.await {
        Ok(ticket) => ticket,
        Err(ClientError::NoNode { .. }) => crate::daemon::ticket(&cx.home)?,
        Err(e) => return Err(e.into()),
    };
    cx.output.value(&serde_json::json!({ "ticket": ticket }), |o| o.line(&ticket))?;
    cx.output.note("whoever has this ticket is a member and may run commands on the nodes: pass it on in secret");
    // Not a hint: the other machine has a home of its own.
    cx.output.note("next, on the other machine: clawmesh up --join TICKET");
    Ok(())
}

/// The figures as they are.
pub(super) async fn metrics(cx: &Context) -> Result<(), Failure> {
    let text = cx.client()?.metrics().await?;
    cx.output.value(&serde_json::json!({ "openmetrics": text }), |o| o.raw(text.as_bytes()))
}

/// The version alone.
pub(super) fn version(output: &Output) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    match output.mode() {
        Mode::Json => output.json(&serde_json::json!({ "version": version })),
        Mode::Human => output.line(&format!("clawmesh {version}")),
        Mode::Quiet => output.line(version),
    }
}

/// True while the process runs.  One that has ended but was not yet collected by its parent (a zombie) has ended.
fn alive(pid: u32) -> bool {
    let pid = Pid::from_u32(pid);
    // Where processes cannot be listed, the missing api.json must do.
    let Ok(mut system) = System::new() else { return false };
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, ProcessRefreshKind::nothing());
    system.process(pid).is_some_and(|p| !matches!(p.status(), ProcessStatus::Zombie | ProcessStatus::Dead))
}
