//! `clawmesh skills check`, and what `skills ls --all` shows: each skill file with its verdict and what would help.

use std::path::PathBuf;

use clap::Args;

use super::Context;
use crate::{
    client::Client,
    output::{EXIT_REFUSED, Failure, Mode},
    skills::{self, Host, Report, Root, SkillSources, Surroundings, Verdict},
};

/// What `clawmesh skills check` takes.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The directory: every SKILL.md below it is looked at [default: all folders that 'clawmesh up' takes skills from].
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// End with exit code 1 when a skill is rejected.
    #[arg(long)]
    strict: bool,
    /// With --json: also folders that have only a skill.json.
    #[arg(long)]
    skill_json: bool,
    /// Leave OpenClaw's folders and its configuration out.
    #[arg(long)]
    no_openclaw_skills: bool,
}

/// Needs no running node.
pub(super) async fn check(cx: &Context, args: CheckArgs) -> Result<(), Failure> {
    let sources =
        SkillSources { own: vec![Root::skills(cx.home.join("skills"))], openclaw: (!args.no_openclaw_skills).then(Surroundings::current) };
    let with_json = args.skill_json || cx.output.mode() != Mode::Json;
    if let Some(dir) = &args.dir {
        let meta = std::fs::metadata(dir).map_err(|e| Failure::usage(format!("cannot look into {}: {e}", dir.display())))?;
        if !meta.is_dir() {
            return Err(Failure::usage(format!("{} is not a directory: give the folder of the skill", dir.display())));
        }
    }
    let dir = args.dir;
    let looked = tokio::task::spawn_blocking(move || {
        let (roots, settings) = sources.resolve();
        let problem = settings.problem.clone();
        let host = Host::current(settings);
        let reports = match dir {
            Some(dir) => skills::check(&dir, &host, with_json),
            None => skills::local(&skills::scan(&roots, &host)),
        };
        (reports, problem)
    });
    let (reports, problem) = looked.await.map_err(|e| Failure::refused(format!("the check broke off: {e}")))?;
    if let Some(problem) = problem {
        cx.output.note(&format!("OpenClaw's configuration is passed over: {problem}"));
    }
    print(cx, &reports)?;
    let is_bad = args.strict && reports.iter().any(|report| report.verdict == Verdict::Rejected);
    if is_bad { Err(Failure::silent(EXIT_REFUSED)) } else { Ok(()) }
}

/// `skills ls --all`: everything in this node's folders, as the running node sees it.
pub(super) async fn all(cx: &Context, client: &Client) -> Result<(), Failure> {
    print(cx, &client.local_skills().await?)
}

fn print(cx: &Context, reports: &[Report]) -> Result<(), Failure> {
    match cx.output.mode() {
        Mode::Json => return cx.output.json(reports),
        Mode::Quiet => {
            for report in reports.iter().filter(|report| report.eligible) {
                cx.output.line(&printable(&report.name))?;
            }
            return Ok(());
        }
        Mode::Human => {}
    }
    for report in reports {
        for line in lines(report) {
            cx.output.line(&line)?;
        }
    }
    let rejected = reports.iter().filter(|report| report.verdict == Verdict::Rejected).count();
    let usable = reports.iter().filter(|report| report.eligible).count();
    let rest = reports.len() - rejected - usable;
    cx.output.line(&format!("{} found: {usable} usable here, {rest} not usable here, {rejected} rejected", reports.len()))?;
    if reports.is_empty() {
        cx.output.hint("clawmesh up --skills DIR (a directory with a folder per skill)");
    }
    Ok(())
}

/// One skill for a person. A name from a file may hold anything, so control characters are not printed.
fn lines(report: &Report) -> Vec<String> {
    let state = match (report.verdict, report.eligible) {
        (Verdict::Rejected, _) => "rejected",
        (Verdict::Ok, true) => "usable",
        (Verdict::Ok, false) => "not usable here",
    };
    let mut lines = vec![format!("{}  {state}", printable(&report.name)), format!("  {}", printable(&report.path.display().to_string()))];
    if let Some(message) = &report.message {
        let code = report.code.as_deref().unwrap_or_default();
        lines.push(format!("  {code}: {}", printable(message)));
    }
    lines.extend(report.blocked.iter().map(|why| format!("  {}", printable(why))));
    lines.extend(report.missing.phrases().iter().map(|phrase| format!("  {}", printable(phrase))));
    for (n, hint) in report.install.iter().enumerate() {
        let word = if n == 0 { "to install it" } else { "or" };
        lines.push(format!("  {word}: {}", printable(hint)));
    }
    lines.extend(report.notes.iter().map(|note| format!("  note: {}", printable(note))));
    lines
}

fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}
