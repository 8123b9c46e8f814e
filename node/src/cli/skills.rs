//! `clawmesh skills`.

use clap::Subcommand;

use super::Context;
use crate::{
    api::nearest,
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
}

/// The group.
pub(super) async fn skills(cx: &Context, what: Option<Skills>) -> Result<(), Failure> {
    let all = cx.client()?.skills().await?;
    match what.unwrap_or(Skills::Ls) {
        Skills::Ls => {
            cx.output.skills(&all)?;
            match all.iter().find(|s| s.runnable) {
                Some(s) => cx.output.hint(&format!("clawmesh submit {} --input '{{…}}' --wait", s.name)),
                None => cx.output.hint("clawmesh up --skills DIR (a directory with a folder per skill)"),
            }
            Ok(())
        }
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
