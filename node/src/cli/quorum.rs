//! `clawmesh quorum`: the voters of the mesh.

use clap::Subcommand;
use clawmesh_protocol::quorum::Change;

use super::Context;
use crate::{api::types::QuorumChange, output::Failure};

/// The group; without a word it shows the voters.
#[derive(Debug, Subcommand)]
pub(super) enum Quorum {
    /// Begin quorum mode: from then on only the side of a split with a majority of the voters serves.
    ///
    /// There is no way back to open mode.
    Init {
        /// The first voters, by name or id [default: the coordinator and the two best others].
        nodes: Vec<String>,
        /// A voter that holds the records and votes, but runs no tasks and never coordinates; may be given several times.
        #[arg(long = "witness", value_name = "NODE")]
        witnesses: Vec<String>,
    },
    /// One more voter; also for one whose store is new, and which does not count until it is named again.
    Add {
        /// Its name or id; it must be online.
        node: String,
        /// It holds the records and votes, but runs no tasks and never coordinates.
        #[arg(long)]
        witness: bool,
    },
    /// One voter less; it stays a member.
    Remove {
        /// Its name or id.
        node: String,
    },
    /// Show the voters, and whether enough of them can be reached from here.
    Status,
}

/// Changes the voters, or shows them.
pub(super) async fn quorum(cx: &Context, what: Option<Quorum>) -> Result<(), Failure> {
    let client = cx.client()?;
    let change = match what.unwrap_or(Quorum::Status) {
        Quorum::Status => None,
        Quorum::Init { nodes, witnesses } => Some(QuorumChange { change: Change::Init, nodes, witnesses }),
        Quorum::Add { node, witness } => {
            let (nodes, witnesses) = if witness { (Vec::new(), vec![node]) } else { (vec![node], Vec::new()) };
            Some(QuorumChange { change: Change::Add, nodes, witnesses })
        }
        Quorum::Remove { node } => Some(QuorumChange { change: Change::Remove, nodes: vec![node], witnesses: Vec::new() }),
    };
    let view = match &change {
        Some(change) => client.change_quorum(change).await?,
        None => client.quorum().await?,
    };
    cx.output.quorum(&view)?;
    if !view.warning.is_empty() {
        cx.output.note(&view.warning);
    }
    if view.voters.is_empty() {
        cx.output.hint("clawmesh quorum init");
    }
    Ok(())
}
