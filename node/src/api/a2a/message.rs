//! Which task a message means.

use std::sync::Arc;

use clawmesh_protocol::{
    face::{Command, Reply, SkillView},
    spec::BUILTINS,
};
use serde_json::{Value, json};

use super::{
    super::{
        problem::nearest,
        routes::{App, unexpected},
    },
    types::{Fault, Message, SendParams},
};

/// Longest name of a conversation, characters; OpenClaw's own bound.
const CONTEXT_MAX: usize = 128;
/// What a task's `user` begins with when it came by A2A; the conversation follows.
pub(super) const USER: &str = "a2a:";
/// Parts of one message.
const PARTS_MAX: usize = 64;

/// The task as the API takes it.
///
/// # Errors
/// The message has no usable part, names a skill that is not there, or continues a task.
pub(super) async fn task_of(app: &Arc<App>, params: &SendParams) -> Result<Value, Fault> {
    let message = &params.message;
    if let Some(id) = message.task_id.as_ref().filter(|id| !id.is_empty()) {
        return Err(Fault::new(-32004, format!("task '{id}' takes no further messages: send a new one in the same context")));
    }
    if message.role.as_deref().is_some_and(|r| !matches!(r, "ROLE_USER" | "user")) {
        return Err(Fault::invalid("a message to an agent has the role ROLE_USER"));
    }
    let skills = match app.call(Command::Skills(Default::default())).await? {
        Reply::Skills(_, skills) => skills,
        other => return Err(unexpected(&other).into()),
    };
    let mut task = work(params, &skills)?;
    let context = context(params)?;
    task["user"] = json!(format!("{USER}{context}"));
    // A message that arrives twice (a client that lost our answer) is one task.
    if let Some(id) = message.message_id.as_ref().filter(|id| !id.is_empty()) {
        let whole = format!("{context}\n{id}");
        let hash = blake3::hash(whole.as_bytes()).to_hex();
        task["key"] = json!(format!("a2a-{}", hash.get(..32).unwrap_or_default()));
    }
    if let Some(node) = params.meta("node") {
        task["pin"] = json!(node);
    }
    Ok(task)
}

fn context(params: &SendParams) -> Result<String, Fault> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
    match params.context() {
        None => Ok(format!("ctx-{}", data_encoding::HEXLOWER.encode(&rand::random::<[u8; 8]>()))),
        Some(c) if c.len() <= CONTEXT_MAX && c.chars().all(fits) => Ok(c.to_owned()),
        Some(_) => {
            Err(Fault::invalid(format!("contextId has at most {CONTEXT_MAX} letters, digits, dots, underscores, colons and hyphens")))
        }
    }
}

/// A skill with its input, or a prompt for an agent.
pub(super) fn work(params: &SendParams, skills: &[SkillView]) -> Result<Value, Fault> {
    let (text, data) = content(&params.message)?;
    let asked = params.meta("skillId").or_else(|| params.meta("skill"));
    // OpenClaw's own way to name a skill, for senders that can send nothing but text.
    let spoken = text.strip_prefix('$').and_then(|t| {
        let (name, rest) = t.split_once(char::is_whitespace).unwrap_or((t, ""));
        known(name, skills).is_some().then(|| (name.to_owned(), rest.trim_start().to_owned()))
    });
    let (name, text) = match (asked, spoken) {
        (Some(name), _) => (name.to_owned(), text),
        (None, Some((name, rest))) => (name, rest),
        (None, None) if text.is_empty() => {
            return Err(Fault::invalid(
                "data alone says not what to do with it: name a skill as metadata.skillId (the agent card lists them)",
            ));
        }
        (None, None) => return Ok(json!({ "prompt": with_data(text, data) })),
    };
    match known(&name, skills) {
        Some(true) => Ok(json!({ "skill": name, "input": input(text, data) })),
        Some(false) => Ok(json!({ "skill": name, "prompt": with_data(text, data) })),
        None => {
            let near = nearest(&name, skills.iter().map(|s| s.name.as_str()).chain(BUILTINS));
            let hint = if near.is_empty() { String::new() } else { format!("; near are {}", near.join(", ")) };
            Err(Fault::invalid(format!("no node offers a skill '{name}'{hint}")))
        }
    }
}

/// Whether the mesh runs it by itself; none when it does not know it.
fn known(name: &str, skills: &[SkillView]) -> Option<bool> {
    if BUILTINS.contains(&name) {
        return Some(true);
    }
    let mut of_name = skills.iter().filter(|s| s.name == name).peekable();
    of_name.peek()?;
    Some(of_name.any(|s| s.runnable))
}

/// All text, and all data: one value, or a list where there are several.
fn content(message: &Message) -> Result<(String, Option<Value>), Fault> {
    if message.parts.is_empty() || message.parts.len() > PARTS_MAX {
        return Err(Fault::invalid(format!("a message has 1 to {PARTS_MAX} parts, not {}", message.parts.len())));
    }
    if message.parts.iter().any(|p| p.raw.is_some() || p.url.is_some() || p.file.is_some()) {
        return Err(Fault::new(-32005, "files are not taken: send text or data"));
    }
    let texts: Vec<&str> = message.parts.iter().filter_map(|p| p.text.as_deref()).collect();
    let mut data: Vec<Value> = message.parts.iter().filter_map(|p| p.data.clone()).collect();
    let data = if data.len() > 1 { Some(Value::Array(data)) } else { data.pop() };
    let text = texts.join("\n");
    if text.trim().is_empty() && data.is_none() {
        return Err(Fault::invalid("the message holds neither text nor data"));
    }
    Ok((text, data))
}

/// A skill's input: data as JSON; text as it is, which is JSON when the sender wrote some.
fn input(text: String, data: Option<Value>) -> Option<String> {
    match data {
        Some(data) => Some(data.to_string()),
        None => Some(text).filter(|t| !t.is_empty()),
    }
}

fn with_data(text: String, data: Option<Value>) -> String {
    match data {
        None => text,
        Some(data) if text.is_empty() => data.to_string(),
        Some(data) => format!("{text}\n{data}"),
    }
}
