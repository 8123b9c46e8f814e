//! `clawmesh skills`.

use clap::{Args, Subcommand};
use clawmesh_protocol::face::{Resolved, SkillQuery, SkillView};

use super::{Context, skills_check};
use crate::{
    api::nearest,
    client::Client,
    output::{
        EXIT_REFUSED, Failure, Mode,
        skills::{needs_lines, skill_lines},
    },
};

/// The group; without a word it lists.
#[derive(Debug, Subcommand)]
pub(super) enum Skills {
    /// List the skills of the mesh.
    Ls {
        /// Of this node alone, but all it has found: with those that it can't use, what is missing, and how to install that.
        #[arg(long)]
        all: bool,
    },
    /// Say of each skill file what OpenClaw and the mesh make of it, and what is missing; needs no running node.
    Check(skills_check::CheckArgs),
    /// Show a skill, the nodes that offer it, and how it has run there.
    Show {
        /// The skill's name.
        name: String,
    },
    /// Find skills by words, tag or category; all that is given has to hold.
    Find(Find),
    /// Say what skills need of other skills: in which order, what is missing, which depend on themselves.
    Resolve {
        /// The skills.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Offer a skill's folder to the mesh; nothing is installed anywhere by that.
    Publish(super::share::Publish),
    /// Install a skill that a member has published into this node's own folder of skills.
    Install(super::share::Install),
    /// Bring installed skills to what their publisher has now.
    Update(super::share::Change),
    /// Remove a skill that was installed from the mesh.
    Remove(super::share::Remove),
    /// Say where installed skills came from.
    Origin {
        /// The skill's name; without it, all.
        name: Option<String>,
    },
}

/// What is looked for.
#[derive(Debug, Args)]
pub(super) struct Find {
    /// Words, or how they begin, in the name, the tags, the category or the description; with --dht the exact name.
    #[arg(required_unless_present_any = ["name", "tags", "category"])]
    text: Vec<String>,
    /// Exactly this name.
    #[arg(long)]
    name: Option<String>,
    /// A tag; several times for several of them.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// A category.
    #[arg(long)]
    category: Option<String>,
    /// Ask the distributed index (Kademlia) alone who offers a skill of this name: a hint that may be up to 90 s old.
    #[arg(long, conflicts_with_all = ["tags", "category"])]
    dht: bool,
}

/// The group.
pub(super) async fn skills(cx: &Context, what: Option<Skills>) -> Result<(), Failure> {
    let what = match what.unwrap_or(Skills::Ls { all: false }) {
        Skills::Check(args) => return skills_check::check(cx, args).await,
        Skills::Publish(args) => return super::share::publish(cx, args).await,
        Skills::Install(args) => return super::share::install(cx, args).await,
        Skills::Update(args) => return super::share::update(cx, args).await,
        Skills::Remove(args) => return super::share::remove(cx, &args),
        Skills::Origin { name } => return super::share::origin(cx, name.as_deref()),
        other => other,
    };
    let client = cx.client()?;
    match what {
        Skills::Ls { all: true } => skills_check::all(cx, &client).await,
        Skills::Ls { all: false } => {
            let all = client.skills().await?;
            cx.output.skills(&all)?;
            match all.iter().find(|s| s.runnable) {
                Some(s) => cx.output.hint(&format!("clawmesh submit {} --input '{{…}}' --wait", s.name)),
                None => cx.output.hint("clawmesh up --skills DIR (a directory with a folder per skill)"),
            }
            Ok(())
        }
        Skills::Find(f) if f.dht => by_index(cx, &client, &f.name.unwrap_or_else(|| f.text.join(" "))).await,
        Skills::Find(f) => find(cx, &client, f).await,
        Skills::Show { name } => show(cx, &client, &name).await,
        Skills::Resolve { names } => resolve(cx, &client, &names).await,
        // They are done above: they need no answer of a running node, or not only.
        Skills::Check(_) | Skills::Publish(_) | Skills::Install(_) | Skills::Update(_) | Skills::Remove(_) | Skills::Origin { .. } => {
            Ok(())
        }
    }
}

async fn find(cx: &Context, client: &Client, f: Find) -> Result<(), Failure> {
    let text = Some(f.text.join(" ")).filter(|t| !t.is_empty());
    let q = SkillQuery { name: f.name, tags: f.tags, category: f.category, text, ..SkillQuery::default() };
    let found = client.find_skills(&q).await?;
    if found.is_empty() && cx.output.mode() == Mode::Human {
        cx.output.note("no node that is here offers such a skill");
        cx.output.hint("clawmesh skills ls");
        return Ok(());
    }
    cx.output.skills(&found)
}

async fn show(cx: &Context, client: &Client, name: &str) -> Result<(), Failure> {
    let found = client.find_skills(&SkillQuery { name: Some(name.to_owned()), ..SkillQuery::default() }).await?;
    if found.is_empty() {
        return Err(unknown(name, &client.skills().await?));
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

fn unknown(name: &str, all: &[SkillView]) -> Failure {
    let candidates = nearest(name, all.iter().map(|s| s.name.as_str()));
    let hint = candidates.first().map_or(String::new(), |c| format!("; the nearest name is '{c}'"));
    let mut f =
        Failure::new(EXIT_REFUSED, "unknown_skill", format!("no node that is here offers a skill '{name}'{hint}")).next("clawmesh skills");
    f.candidates = candidates;
    f
}

async fn resolve(cx: &Context, client: &Client, names: &[String]) -> Result<(), Failure> {
    let r: Resolved = client.resolve_skills(names).await?;
    match cx.output.mode() {
        Mode::Json => cx.output.json(&r),
        Mode::Quiet => r.all.iter().try_for_each(|n| cx.output.line(n)),
        Mode::Human => cx.output.raw(needs_lines(&r).as_bytes()),
    }
}

async fn by_index(cx: &Context, client: &Client, name: &str) -> Result<(), Failure> {
    let found = client.providers(name).await?;
    if cx.output.mode() == Mode::Json {
        return cx.output.json(&found);
    }
    if found.is_empty() {
        return Err(
            Failure::new(EXIT_REFUSED, "not_found", format!("the index names nobody for the skill '{name}'")).next("clawmesh skills")
        );
    }
    cx.list_holders(client, &found).await
}
