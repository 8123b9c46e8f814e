//! Flags of `clawmesh up` about agents.

use std::path::PathBuf;

use clap::Args;

use crate::output::Failure;

/// The flags as typed.
#[derive(Debug, Args)]
pub(super) struct AgentFlags {
    /// Agents run at once, beside the slots; 0 runs none [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000))]
    agent_slots: Option<u32>,
    /// Run agents for others although commands are refused (--no-commands).
    #[arg(long, conflicts_with = "no_agents")]
    agents: bool,
    /// Run no agents for others: commands and skills with a command of their own only.
    #[arg(long)]
    no_agents: bool,
    /// The OpenClaw to run [default: 'openclaw' on PATH].
    #[arg(long, env = "CLAWMESH_AGENT_PATH", value_name = "FILE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    agent_path: Option<String>,
    /// Another agent than OpenClaw: its program, and then each of its arguments, by one such flag each. It gets the prompt on
    /// stdin, or in the file that {prompt_file} stands for; {dir} is its directory, {timeout} its time limit in seconds. What
    /// it writes on stdout is the answer.
    #[arg(long = "agent-arg", value_name = "ARG", allow_hyphen_values = true, conflicts_with = "agent_path")]
    agent_args: Vec<String>,
    /// Name of a variable that the agent gets from the node's environment, such as the key of a model's provider; may be
    /// given several times.
    #[arg(long = "agent-env", value_name = "NAME", value_parser = variable)]
    agent_envs: Vec<String>,
    /// The configuration that OpenClaw runs with [default: its user's own].
    #[arg(long, value_name = "FILE", conflicts_with = "agent_args")]
    openclaw_config: Option<PathBuf>,
}

/// What the daemon starts with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AgentArgs {
    /// Agents are run for members.
    pub(crate) offered: bool,
    /// Agents at once, 0 to 1,000.
    pub(crate) slots: u32,
    /// Another OpenClaw than the one on PATH: a name, or an absolute path.
    pub(crate) path: Option<PathBuf>,
    /// Another agent: program and arguments; empty for none.
    pub(crate) argv: Vec<String>,
    /// Names of variables that it gets from the node.
    pub(crate) env: Vec<String>,
    /// OpenClaw's configuration, absolute.
    pub(crate) openclaw_config: Option<PathBuf>,
}

impl AgentFlags {
    /// `commands`: the node runs commands for members.  An agent runs what it likes, so who refuses the one refuses the
    /// other, unless `--agents` says so.  `slots`: as asked for; a node that runs no tasks runs no agents by itself.
    pub(super) fn into_args(self, commands: bool, slots: Option<u32>) -> Result<AgentArgs, Failure> {
        let absolute = |f: PathBuf| std::path::absolute(&f).map_err(|e| Failure::usage(format!("cannot use {}: {e}", f.display())));
        let openclaw_config = self.openclaw_config.map(absolute).transpose()?;
        if let Some(file) = openclaw_config.as_ref().filter(|f| !f.is_file()) {
            return Err(Failure::usage(format!("{} is not a file, so OpenClaw cannot be configured by it", file.display())));
        }
        // A bare name is looked for on PATH; the agent runs in a folder of its own, where a relative path points elsewhere.
        let path = self.agent_path.map(PathBuf::from);
        let path = path.map(|p| if p.components().count() > 1 { absolute(p) } else { Ok(p) }).transpose()?;
        Ok(AgentArgs {
            offered: !self.no_agents && (self.agents || commands),
            slots: self.agent_slots.unwrap_or(if slots == Some(0) { 0 } else { 1 }),
            path,
            argv: self.agent_args,
            env: self.agent_envs,
            openclaw_config,
        })
    }
}

fn variable(typed: &str) -> Result<String, String> {
    if typed.is_empty() || typed.contains(['=', '\0']) {
        return Err("give the name of a variable only: its value is the node's".into());
    }
    Ok(typed.to_owned())
}
