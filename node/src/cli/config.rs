//! `clawmesh config`: settings of the whole mesh.

use clap::{Subcommand, ValueEnum};
use clawmesh_protocol::spec::Strategy;

use super::{Context, spec::strategy};
use crate::output::Failure;

/// The group.
#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Print a setting.
    Get {
        /// A setting of the whole mesh.
        #[arg(long, required = true)]
        mesh: bool,
        /// Which.
        key: Key,
    },
    /// Change a setting.
    Set {
        /// A setting of the whole mesh.
        #[arg(long, required = true)]
        mesh: bool,
        /// Which.
        key: Key,
        /// The new value.
        #[arg(value_parser = strategy())]
        value: Strategy,
    },
}

/// Settings by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Key {
    /// How the coordinator chooses among the nodes that can run a task.
    Strategy,
}

/// The group.
pub(super) async fn config(cx: &Context, what: Config) -> Result<(), Failure> {
    let client = cx.client()?;
    match what {
        Config::Get { key: Key::Strategy, mesh: _ } => {
            let now = client.status().await?.view.strategy;
            cx.output.value(&serde_json::json!({ "strategy": now }), |o| o.line(now.word()))
        }
        Config::Set { key: Key::Strategy, value, mesh: _ } => {
            client.set_strategy(value).await?;
            cx.output.note(&format!("the mesh's strategy is {value} from now on"));
            cx.output.value(&serde_json::json!({ "strategy": value }), |_| Ok(()))
        }
    }
}
