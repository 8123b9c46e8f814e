//! `clawmesh ask`: give a prompt to an agent somewhere in the mesh.

use std::time::Duration;

use clap::Args;
use clawmesh_protocol::face::{MemberView, State};

use super::{
    Context, blobs,
    run::{check, detached, exit_code, how_it_ended, input, report_answer, wait_for_one},
    spec::{TaskFlags, limit},
};
use crate::{
    client::{Client, Submission},
    output::{EXIT_REFUSED, Failure, Mode},
};

/// `ask`.
#[derive(Debug, Args)]
pub(super) struct AskArgs {
    /// What the agent is asked; '-' reads it from stdin.
    #[arg(value_name = "TEXT")]
    text: String,
    /// A skill of the mesh that the agent shall use: it runs where both are.
    #[arg(long, value_name = "NAME")]
    skill: Option<String>,
    /// Wait for the answer and print it (the default).
    #[arg(long, conflicts_with_all = ["detach", "id_only"])]
    wait: bool,
    /// Do not wait: print the task's id.
    #[arg(long, short)]
    detach: bool,
    /// Do not wait: print the task's id and nothing else.
    #[arg(long)]
    id_only: bool,
    /// Wait no longer than this for the answer (exit code 4); the task goes on.
    #[arg(long, value_name = "DURATION", value_parser = limit, conflicts_with_all = ["detach", "id_only"])]
    wait_timeout: Option<Duration>,
    #[command(flatten)]
    task: TaskFlags,
}

impl AskArgs {
    /// The task.
    pub(super) fn into_submission(self) -> Result<Submission, Failure> {
        let mut wanted = self.task.submission();
        // A prompt is plain text, so nothing is asked of it but that it is not too long.
        let text = match self.text.as_str() {
            "-" => input(None, Some("-".as_ref()), None, true)?,
            _ => input(None, None, Some(self.text), true)?,
        };
        (wanted.task.prompt, wanted.task.skill) = (text, self.skill);
        Ok(wanted)
    }
}

/// No node that can be reached has an agent, as far as is known here.
async fn nobody(client: &Client) -> bool {
    let answers = |m: &MemberView| m.state == "online" && m.agent_slots > 0;
    client.status().await.is_ok_and(|s| !s.view.members.iter().any(answers))
}

/// Asks, and waits for the answer.
pub(super) async fn ask(cx: &Context, args: AskArgs) -> Result<(), Failure> {
    let (detach, id_only, wait_timeout) = (args.detach || args.id_only, args.id_only, args.wait_timeout);
    let ins = args.task.ins.clone();
    let mut wanted = args.into_submission()?;
    check(&wanted, &ins)?;
    let client = cx.client()?;
    blobs::inputs(cx, &client, &ins, &mut wanted.task).await?;
    let accepted = client.submit(&wanted).await?;
    if detach {
        return detached(cx, &accepted, id_only);
    }
    if cx.output.mode() == Mode::Human && nobody(&client).await {
        cx.output.note("no reachable node has an agent now: the prompt waits until one has (see 'clawmesh nodes'); Ctrl-C cancels it");
    }
    let end = wait_for_one(cx, &client, accepted.id, wait_timeout).await?;
    report_answer(cx, &client, &end).await?;
    let code = match end.state {
        State::Completed => return Ok(()),
        // An agent's own code says nothing beyond its reason.
        State::Failed => EXIT_REFUSED,
        _ => exit_code(&end),
    };
    Err(if cx.output.mode() == Mode::Json { Failure::silent(code) } else { how_it_ended(&end, code) })
}
