//! The agent of this node: which program it is, whether it is there now, and how a job becomes a run of it.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clawmesh_protocol::{io::Input, record::clip};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    cli::AgentArgs,
    exec::agent::{AgentRun, BACKSTOP, PlacedSkill, folder_name, knows_timeout},
    output::Failure,
};

/// The program that is looked for when nothing else is named.
const OPENCLAW: &str = "openclaw";
/// Time limit of a run that was given none: OpenClaw's own default.
const LIMIT_DEFAULT: Duration = Duration::from_secs(600);
/// How often the program is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Most words of a configured agent, and most names of variables for it.
const WORDS_MAX: usize = 64;
/// Where OpenClaw keeps its things: not secret, and without them it would find others than its user does.
const OPENCLAW_PLACES: [&str; 3] = ["OPENCLAW_HOME", "OPENCLAW_STATE_DIR", "OPENCLAW_CONFIG_PATH"];

/// The agent in a home's `node.json`, for those who do not want to type flags at each start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OwnAgent {
    /// Program and arguments of another agent than OpenClaw; see `up --agent-arg`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) argv: Vec<String>,
    /// Names of variables that it gets from the node's environment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) env: Vec<String>,
}

/// How prompts are run here.  Cheap to clone; all clones mean the same agent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Agents(Option<Arc<Setup>>);

#[derive(Debug)]
struct Setup {
    /// The program as configured: a name to be found on PATH, or a path.
    program: PathBuf,
    /// What follows it.
    args: Vec<String>,
    /// It speaks OpenClaw's envelope.
    openclaw: bool,
    name: String,
    env: Vec<(OsString, OsString)>,
}

impl Agents {
    /// What flags and home say.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn new(args: &AgentArgs, own: Option<&OwnAgent>) -> Result<Self, Failure> {
        if !args.offered {
            return Ok(Self::default());
        }
        let none = OwnAgent::default();
        let own = own.unwrap_or(&none);
        let argv = if args.argv.is_empty() && args.path.is_none() { &own.argv } else { &args.argv };
        if argv.len() > WORDS_MAX || own.env.len() > WORDS_MAX {
            return Err(Failure::usage(format!("an agent's argv and its variables have at most {WORDS_MAX} words each")));
        }
        let names = args.env.iter().chain(&own.env).map(String::as_str).chain(OPENCLAW_PLACES);
        let env = names.filter_map(|n| Some((n.into(), env::var_os(n)?))).collect();
        let setup = match argv.split_first() {
            Some((program, _)) if program.is_empty() => return Err(Failure::usage("the agent's program is an empty word")),
            Some((program, rest)) => {
                if args.openclaw_config.is_some() {
                    return Err(Failure::usage("--openclaw-config is for OpenClaw, and another agent is configured"));
                }
                let stem = Path::new(program).file_stem().and_then(OsStr::to_str).unwrap_or("agent");
                Setup { program: program.into(), args: rest.to_vec(), openclaw: false, name: clip(stem, 32), env }
            }
            None => {
                let program = args.path.clone().unwrap_or_else(|| OPENCLAW.into());
                let words = ["agent", "exec", "--message-file", "-", "--cwd", "{dir}", "--json", "--timeout", "{timeout}"];
                let mut words: Vec<String> = words.map(str::to_owned).to_vec();
                if let Some(file) = &args.openclaw_config {
                    words.extend(["--config".to_owned(), file.to_string_lossy().into_owned()]);
                }
                Setup { program, args: words, openclaw: true, name: OPENCLAW.into(), env }
            }
        };
        Ok(Self(Some(Arc::new(setup))))
    }

    /// The program, when it is here now.  It is looked for and not run: its start alone takes seconds.
    fn program(&self) -> Option<PathBuf> {
        which::which(&self.0.as_ref()?.program).ok()
    }

    /// The agent's name when it is here now, else empty.
    pub(crate) fn present(&self) -> String {
        match (&self.0, self.program()) {
            (Some(setup), Some(_)) => setup.name.clone(),
            _ => String::new(),
        }
    }

    /// The program that somebody has named and that is not here; none when all is well, or nothing was named.
    pub(crate) fn missing(&self) -> Option<&Path> {
        let setup = self.0.as_ref()?;
        let named = !setup.openclaw || setup.program != Path::new(OPENCLAW);
        (named && self.program().is_none()).then_some(&setup.program)
    }

    /// A run of it.  `limit`: what the task asked for.  `skill`: name and folder.  Returns the run and the time after which the
    /// attempt is ended by force.
    ///
    /// # Errors
    /// A sentence: the agent has gone.
    pub(crate) fn run(&self, text: Vec<u8>, skill: Option<(&str, &Path)>, limit: Option<Duration>) -> Result<(AgentRun, Duration), String> {
        let setup = self.0.as_ref().ok_or("this node refuses agents")?;
        let program = self.program().ok_or_else(|| format!("'{}' is no longer on this node's PATH", setup.program.display()))?;
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        let mut argv = vec![program.to_string_lossy().into_owned()];
        argv.extend(setup.args.iter().cloned());
        let force = if knows_timeout(&argv) { limit.saturating_add(BACKSTOP) } else { limit };
        let mut env = setup.env.clone();
        env.extend(path_with(&program));
        let run = AgentRun {
            name: setup.name.clone(),
            argv,
            envelope: setup.openclaw,
            prompt: prompt(text, skill.map(|(name, _)| name), setup.openclaw),
            skill: skill.map(|(name, from)| PlacedSkill { from: from.to_owned(), folder: folder_name(name) }),
            limit: Some(limit),
            env,
        };
        Ok((run, force))
    }
}

/// npm puts the interpreter that a program needs beside it, and so do managers of Node versions: where that place is not on
/// PATH, it comes first.
fn path_with(program: &Path) -> Option<(OsString, OsString)> {
    let beside = program.parent()?.to_owned();
    let rest = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&rest).any(|p| p == beside) {
        return None;
    }
    let all = std::iter::once(beside).chain(env::split_paths(&rest));
    Some(("PATH".into(), env::join_paths(all).ok()?))
}

/// The text, with the skill that shall be used named as the agent knows it.
fn prompt(text: Vec<u8>, skill: Option<&str>, openclaw: bool) -> Vec<u8> {
    let Some(name) = skill else { return text };
    let folder = folder_name(name);
    // OpenClaw puts a skill that is named so before the model by itself.
    let head = if openclaw && folder == name {
        format!("${name}\n\n")
    } else {
        format!("Read skills/{folder}/SKILL.md before you act, and follow it.\n\n")
    };
    [head.into_bytes(), text].concat()
}

/// Tells the core when the agent appears or goes.
pub(crate) async fn watch(agents: Agents, mut known: String, inputs: mpsc::Sender<Input>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let look = agents.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || look.present()).await else { return };
        if now == known {
            continue;
        }
        if now.is_empty() {
            tracing::warn!(agent = %known, "the agent is no longer here: prompts go to other nodes");
        } else {
            tracing::info!(agent = %now, "an agent is here: this node takes prompts");
        }
        known = now;
        if inputs.send(Input::Agent(known.clone())).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(argv: &[&str]) -> AgentArgs {
        AgentArgs { offered: true, argv: argv.iter().map(|a| (*a).to_owned()).collect(), ..AgentArgs::default() }
    }

    #[test]
    fn another_agent_is_an_argv_and_openclaw_is_called_by_file() {
        let sh = Agents::new(&args(&["sh", "-c", "cat"]), None).unwrap();
        assert_eq!(sh.present(), "sh");
        let (run, force) = sh.run(b"do it".to_vec(), Some(("pdf", Path::new("/x"))), Some(Duration::from_secs(5))).unwrap();
        assert!(!run.envelope && force == Duration::from_secs(5));
        assert_eq!(run.prompt, b"Read skills/pdf/SKILL.md before you act, and follow it.\n\ndo it");
        assert!(run.argv[0].ends_with("/sh") && run.argv[1..] == ["-c", "cat"]);
        let path = AgentArgs { path: Some(run.argv[0].clone().into()), openclaw_config: Some("/c.json".into()), ..args(&[]) };
        let (run, force) = Agents::new(&path, None).unwrap().run(b"do it".to_vec(), Some(("pdf", Path::new("/x"))), None).unwrap();
        assert!(run.envelope && force == LIMIT_DEFAULT + BACKSTOP);
        assert_eq!(run.prompt, b"$pdf\n\ndo it");
        assert!(!run.argv.iter().any(|a| a.contains("do it")), "a prompt is never an argument");
        assert_eq!(run.argv[run.argv.len() - 2..], ["--config", "/c.json"]);
        let odd = prompt(b"x".to_vec(), Some("My Skill"), true);
        assert_eq!(odd, b"Read skills/My-Skill/SKILL.md before you act, and follow it.\n\nx");
    }

    fn sh_missing() -> bool {
        Agents::new(&args(&["sh"]), None).unwrap().missing().is_some()
    }

    #[test]
    fn flags_come_before_the_home_and_what_is_refused_is_not_there() {
        let own = OwnAgent { argv: vec!["cat".into()], env: vec!["HOME".into()] };
        assert_eq!(Agents::new(&args(&[]), Some(&own)).unwrap().present(), "cat");
        assert_eq!(Agents::new(&args(&["sh"]), Some(&own)).unwrap().present(), "sh");
        let refused = AgentArgs { offered: false, ..args(&["sh"]) };
        let refused = Agents::new(&refused, Some(&own)).unwrap();
        assert_eq!(refused.present(), "");
        assert!(refused.run(Vec::new(), None, None).unwrap_err().contains("refuses agents"));
        let gone = Agents::new(&args(&["no-such-agent-here"]), None).unwrap();
        assert_eq!(gone.present(), "");
        assert_eq!((gone.missing(), sh_missing()), (Some(Path::new("no-such-agent-here")), false));
        assert!(gone.run(Vec::new(), None, None).unwrap_err().contains("no longer on this node's PATH"));
        assert!(Agents::new(&args(&[""]), None).is_err());
        assert!(Agents::new(&args(&["x"; 65]), None).is_err());
        let mixed = AgentArgs { openclaw_config: Some("/c".into()), ..args(&["sh"]) };
        assert!(Agents::new(&mixed, None).is_err());
    }
}
