//! `clawmesh skills`.

use clap::Subcommand;

use super::Context;
use crate::{
    api::nearest,
    client::Client,
    output::{EXIT_REFUSED, Failure, Mode, views::skill_lines},
};

/// The group; without a word it lists.
#[derive(Debug, Subcommand)]
pub(super) enum Skills {
    /// List the skills of the mesh.
    Ls,
    /// Show a skill and the nodes that offer it.
    Show {
        /// The skill's name.
        name: String,
    },
    /// Ask the distributed index (Kademlia) alone who offers a skill: a hint that may be up to 90 s old.
    Find {
        /// The skill's name.
        name: String,
    },
}

/// The group.
pub(super) async fn skills(cx: &Context, what: Option<Skills>) -> Result<(), Failure> {
    let client = cx.client()?;
    if let Some(Skills::Find { name }) = &what {
        return find(cx, &client, name).await;
    }
    let all = client.skills().await?;
    match what.unwrap_or(Skills::Ls) {
        Skills::Ls => {
            cx.output.skills(&all)?;
            match all.iter().find(|s| s.runnable) {
                Some(s) => cx.output.hint(&format!("clawmesh submit {} --input '{{…}}' --wait", s.name)),
                None => cx.output.hint("clawmesh up --skills DIR (a directory with a folder per skill)"),
            }
            Ok(())
        }
        Skills::Find { .. } => Ok(()),
        Skills::Show { name } => {
            let found: Vec<_> = all.iter().filter(|s| s.name == name).collect();
            if found.is_empty() {
                let candidates = nearest(&name, all.iter().map(|s| s.name.as_str()));
                let hint = candidates.first().map_or(String::new(), |c| format!("; the nearest name is '{c}'"));
                let mut f =
                    Failure::new(EXIT_REFUSED, "unknown_skill", format!("no node offers a skill '{name}'{hint}")).next("clawmesh skills");
                f.candidates = candidates;
                return Err(f);
            }
            if cx.output.mode() == Mode::Json {
                return cx.output.json(&found);
            }
            if found.len() > 1 {
                cx.output.note(&format!("{} different skills have this name", found.len()));
            }
            for (i, s) in found.iter().enumerate() {
                let gap = if i == 0 { "" } else { "\n" };
                cx.output.raw(format!("{gap}{}", skill_lines(s)).as_bytes())?;
            }
            Ok(())
        }
    }
}

async fn find(cx: &Context, client: &Client, name: &str) -> Result<(), Failure> {
    let found = client.providers(name).await?;
    if cx.output.mode() == Mode::Json {
        return cx.output.json(&found);
    }
    if found.is_empty() {
        return Err(
            Failure::new(EXIT_REFUSED, "not_found", format!("the index names nobody for the skill '{name}'")).next("clawmesh skills")
        );
    }
    let members = client.nodes().await?;
    for p in found {
        let known = members.iter().find(|m| m.node == p).map_or("not seen yet", |m| m.name.as_str());
        cx.output.line(&if cx.output.mode() == Mode::Quiet { p.to_string() } else { format!("{known}  {p}") })?;
    }
    Ok(())
}
