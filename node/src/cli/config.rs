//! `clawmesh config`: settings of the whole mesh.

use std::str::FromStr;

use clap::Subcommand;
use clawmesh_protocol::spec::Strategy;

use super::{Context, spec::user};
use crate::output::{EXIT_REFUSED, Failure, Mode, Text, views::stamp};

/// The group.
#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Print a setting.
    Get {
        /// A setting of the whole mesh.
        #[arg(long, required = true)]
        mesh: bool,
        /// Which.
        key: String,
    },
    /// List all settings.
    Ls {
        /// Settings of the whole mesh.
        #[arg(long, required = true)]
        mesh: bool,
    },
    /// Change a setting: `strategy`, or one of your own, whose name has a dot in it (`lab.model-url`).
    Set {
        /// A setting of the whole mesh.
        #[arg(long, required = true)]
        mesh: bool,
        /// Which.
        #[arg(value_parser = name)]
        key: String,
        /// The new value, at most 1 KiB.
        value: String,
    },
    /// Remove a setting of your own, or go back to the default.
    Unset {
        /// A setting of the whole mesh.
        #[arg(long, required = true)]
        mesh: bool,
        /// Which.
        key: String,
    },
    /// Show the last twelve changes: what, by whom, on which node.
    Log {
        /// Settings of the whole mesh.
        #[arg(long, required = true)]
        mesh: bool,
    },
}

/// A misspelt name of the mesh's own is none: the others have a dot in them.
fn name(typed: &str) -> Result<String, String> {
    if typed == "strategy" || typed.contains('.') {
        return Ok(typed.to_owned());
    }
    Err("there is 'strategy', and names of your own have a dot in them, as in lab.model-url".into())
}

/// The group.
pub(super) async fn config(cx: &Context, what: Config) -> Result<(), Failure> {
    // A wrong value is wrong whether a node runs or not.
    if let Config::Set { key, value, .. } = &what
        && key == "strategy"
        && Strategy::from_str(value).is_err()
    {
        let names = "least_tasks, round_robin, best_fit, random, affinity";
        return Err(Failure::usage(format!("'{value}' is no strategy: there are {names}")));
    }
    let client = cx.client()?;
    match what {
        Config::Get { key, .. } => {
            let all = client.settings().await?.values;
            let Some(value) = all.get(&key) else {
                let f = Failure::new(EXIT_REFUSED, "not_found", format!("the setting '{key}' is not set"));
                return Err(f.next("clawmesh config ls --mesh"));
            };
            cx.output.value(&serde_json::json!({ &key: value }), |o| o.line(value))
        }
        Config::Ls { .. } => {
            let all = client.settings().await?.values;
            if cx.output.mode() == Mode::Json {
                return cx.output.json(&all);
            }
            cx.output.table(&["NAME", "VALUE"], all.iter().map(|(k, v)| vec![Text::from(k), Text::from(v)]).collect())
        }
        Config::Set { key, value, .. } => {
            client.change_setting(&key, Some(value.clone()), user().unwrap_or_default()).await?;
            cx.output.note(&format!("the mesh's {key} is {value} from now on"));
            cx.output.value(&serde_json::json!({ &key: value }), |_| Ok(()))
        }
        Config::Unset { key, .. } => {
            client.change_setting(&key, None, user().unwrap_or_default()).await?;
            cx.output.value(&serde_json::json!({ &key: null }), |_| Ok(()))
        }
        Config::Log { .. } => {
            let log = client.settings().await?.log;
            if cx.output.mode() == Mode::Json {
                return cx.output.json(&log);
            }
            let rows = log.iter().map(|c| {
                let value = c.value.as_deref().unwrap_or("(removed)");
                vec![Text::from(stamp(c.at)), Text::from(&c.key), Text::from(value), Text::from(&c.user), Text::from(&c.name)]
            });
            cx.output.table(&["WHEN", "NAME", "VALUE", "BY", "ON"], rows.collect())
        }
    }
}
