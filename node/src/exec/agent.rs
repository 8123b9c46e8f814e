//! An agent as the work of an attempt: what it is given, and what its answer means.
//!
//! OpenClaw is called as `openclaw agent exec --json`: the prompt on standard input, one JSON object (the *envelope*) on
//! standard output, exit code 0, 1 or 2. Any other agent is an argv: the prompt on standard input, the answer on standard output.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::capture::{Capture, Captured, Stream};
use super::exit::{Exit, Kind};

/// Longest envelope, in bytes. It holds the answer twice, so the longest answer is half of it.
pub(super) const ENVELOPE_MAX: u64 = 4 << 20;
/// An agent that has written so much where its envelope is expected is not read any further, in bytes: its next write fails.
pub(super) const ENVELOPE_READ_MAX: u64 = 64 << 20;
/// An agent counts its timeout from when it is ready, which takes it up to half a minute on a busy machine, and then tells
/// what it had got so far. One that has not ended so long after its timeout is ended.
pub(crate) const BACKSTOP: Duration = Duration::from_secs(60);

/// A skill's folder that is copied for an agent: most files, bytes and levels.
const SKILL_FILES_MAX: usize = 1000;
const SKILL_BYTES_MAX: u64 = 16 << 20;
const SKILL_DEPTH_MAX: usize = 8;
/// The prompt as a file, for agents that do not read standard input.
const PROMPT_FILE: &str = ".clawmesh-prompt.md";
/// Longest part of a foreign text in a reason, in characters.
const QUOTE_CHARS: usize = 120;

/// Variables of OpenClaw, which a task cannot set: `OPENCLAW_SHELL` would make it believe that it runs inside an agent, and
/// where it finds its configuration is for the node to say. The node's own come by the agent's configuration, if at all.
const OPENCLAW_PREFIX: &str = "OPENCLAW_";

/// Placeholders in an agent's argv.
const PLACE_PROMPT: &str = "{prompt_file}";
const PLACE_DIR: &str = "{dir}";
const PLACE_TIMEOUT: &str = "{timeout}";

/// One run of an agent.
#[derive(Clone, Debug)]
pub(crate) struct AgentRun {
    /// What people call it.
    pub(crate) name: String,
    /// Program and arguments. `{prompt_file}` stands for a file with the prompt (standard input is empty then), `{dir}` for the
    /// attempt's directory, `{timeout}` for the time limit in whole seconds, 0 for none.
    pub(crate) argv: Vec<String>,
    /// Its standard output is OpenClaw's envelope, not the answer itself.
    pub(crate) envelope: bool,
    /// What it is asked, whole.
    pub(crate) prompt: Vec<u8>,
    /// The skill that is copied into the attempt's `skills/`.
    pub(crate) skill: Option<PlacedSkill>,
    /// What the agent is told as its time limit. The attempt's own is a backstop behind it.
    pub(crate) limit: Option<Duration>,
    /// Added to the environment of the attempt.
    pub(crate) env: Vec<(OsString, OsString)>,
}

/// A skill for an agent.
#[derive(Clone, Debug)]
pub(crate) struct PlacedSkill {
    /// The folder it is copied from.
    pub(crate) from: PathBuf,
    /// The name of the folder below `skills/`.
    pub(crate) folder: String,
}

/// What a run took, by the agent's word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) agent: String,
    pub(crate) provider: String,
    pub(crate) model: String,
    /// Tokens.
    pub(crate) input: u64,
    pub(crate) output: u64,
    pub(crate) total: u64,
    pub(crate) tool_calls: u64,
    pub(crate) turns: u64,
}

/// True for a variable that a task must not set for an agent.
pub(super) fn is_marker(name: &str) -> bool {
    // Windows does not tell upper case from lower case.
    name.get(..OPENCLAW_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(OPENCLAW_PREFIX))
}

/// The name of a skill as a folder that exists on every file system.
pub(crate) fn folder_name(skill: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' };
    let name: String = skill.chars().map(plain).take(64).collect();
    if name.chars().any(|c| c != '-') { name } else { "skill".to_owned() }
}

/// The argv tells the agent its time limit, so that it can end by itself.
pub(crate) fn knows_timeout(argv: &[String]) -> bool {
    argv.iter().any(|a| a.contains(PLACE_TIMEOUT))
}

impl AgentRun {
    /// Puts into the attempt's directory what the agent finds there; returns its argv.
    ///
    /// # Errors
    /// A sentence: the skill's folder cannot be copied.
    pub(super) async fn furnish(&self, dir: &Path) -> Result<Vec<String>, String> {
        if let Some(skill) = self.skill.clone() {
            let to = dir.join("skills").join(&skill.folder);
            let copied = tokio::task::spawn_blocking(move || place(&skill.from, &to)).await;
            copied.map_err(|e| format!("the skill could not be copied: {e}"))??;
        }
        let prompt = dir.join(PROMPT_FILE);
        if self.by_file() {
            fs::write(&prompt, &self.prompt).map_err(|e| format!("cannot write the prompt to {}: {e}", prompt.display()))?;
        }
        let seconds = self.limit.map_or(0, |l| l.as_secs() + u64::from(l.subsec_nanos() > 0)).to_string();
        let fill = |part: &String| {
            part.replace(PLACE_TIMEOUT, &seconds)
                .replace(PLACE_DIR, &dir.to_string_lossy())
                .replace(PLACE_PROMPT, &prompt.to_string_lossy())
        };
        Ok(self.argv.iter().map(fill).collect())
    }

    /// What it gets on standard input.
    pub(super) fn stdin(&self) -> Option<&[u8]> {
        (!self.by_file()).then_some(self.prompt.as_slice())
    }

    fn by_file(&self) -> bool {
        self.argv.iter().any(|a| a.contains(PLACE_PROMPT))
    }

    /// Puts the end of the process into the agent's terms. `hidden` is where its envelope went; the answer goes to `shown`.
    pub(super) fn judge(&self, mut exit: Exit, hidden: Option<&Capture>, shown: &Capture) -> Exit {
        if exit.kind == Kind::Killed || exit.kind == Kind::SpawnError {
            return exit;
        }
        let envelope = hidden.map(|h| h.content(Stream::Stdout));
        if exit.kind == Kind::Timeout {
            let limit = self.limit.map_or_else(String::new, |l| format!(" of {}", humantime::format_duration(l)));
            if knows_timeout(&self.argv) {
                exit.reason = format!("the agent did not end by itself within a minute after its timeout{limit}, and was ended");
            }
            return exit;
        }
        match envelope {
            Some(envelope) => self.read(exit, &envelope, shown),
            None => self.plain(exit, &shown.content(Stream::Stdout)),
        }
    }

    /// Another agent: its standard output is the answer.
    fn plain(&self, mut exit: Exit, answer: &Captured) -> Exit {
        if exit.kind == Kind::Failed {
            exit.reason = format!("the agent {} {}", self.name, exit.reason);
        } else if answer.truncated > 0 {
            let all = answer.bytes.len() as u64 + answer.truncated;
            exit.reason = format!("answered by {} with {all} bytes, of which {} are kept", self.name, answer.bytes.len());
        } else {
            exit.reason = format!("answered by {}", self.name);
        }
        exit.usage = Some(Usage { agent: self.name.clone(), ..Usage::default() });
        exit
    }

    fn read(&self, exit: Exit, raw: &Captured, shown: &Capture) -> Exit {
        if raw.truncated > 0 {
            let most = bytesize::ByteSize::b(ENVELOPE_MAX);
            let reason =
                format!("the agent wrote more than {most} to its standard output, where its envelope is expected: there is no answer");
            return failed(exit, reason);
        }
        let envelope = match serde_json::from_slice::<Envelope>(&raw.bytes) {
            Ok(envelope) => envelope,
            Err(error) => return no_envelope(exit, &raw.bytes, &error, shown),
        };
        shown.push(Stream::Stdout, envelope.answer().as_bytes());
        let mut exit = self.verdict(exit, &envelope);
        exit.usage = Some(envelope.usage(&self.name));
        exit
    }

    fn verdict(&self, exit: Exit, e: &Envelope) -> Exit {
        let error = e.error.clone().unwrap_or_default();
        let status = e.status.as_deref().unwrap_or_default();
        if status == "timeout" || error.kind.as_deref() == Some("timeout") || (!e.ok && exit.code == Some(2)) {
            let limit = self.limit.map_or_else(String::new, |l| format!(" of {}", humantime::format_duration(l)));
            let reason = format!("the agent ran into its timeout{limit}; a larger --timeout gives it more time");
            return Exit { kind: Kind::Timeout, reason, ..exit };
        }
        if !e.ok || (!status.is_empty() && status != "ok") {
            let kind = error.kind.as_deref().filter(|k| !k.is_empty()).map_or_else(String::new, |k| format!(" ({})", quote(k)));
            let message = error.message.as_deref().filter(|m| !m.trim().is_empty()).unwrap_or("it does not say why");
            return failed(exit, format!("the agent failed: {}{kind}", quote(message)));
        }
        if exit.kind != Kind::Done {
            let reason = format!("the agent's envelope says that all went well, but it {}", exit.reason);
            return failed(exit, reason);
        }
        Exit { reason: e.usage(&self.name).sentence(), ..exit }
    }
}

impl Usage {
    fn sentence(&self) -> String {
        let by = match (self.provider.as_str(), self.model.as_str()) {
            ("", "") => self.agent.clone(),
            (provider, model) => format!("{} with {provider}/{model}", self.agent),
        };
        let calls = match self.tool_calls {
            0 => String::new(),
            1 => ", 1 call of a tool".to_owned(),
            n => format!(", {n} calls of tools"),
        };
        format!("answered by {by}: {} tokens in, {} out{calls}", self.input, self.output)
    }
}

/// What `openclaw agent exec --json` prints. Whatever a version leaves out is empty; what it adds is passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    ok: bool,
    status: Option<String>,
    #[serde(rename = "final")]
    answer: Option<String>,
    #[serde(default)]
    payloads: Option<Vec<Payload>>,
    usage: Option<Tokens>,
    assistant_turns: Option<u64>,
    tool_summary: Option<Tools>,
    model: Option<String>,
    provider: Option<String>,
    error: Option<Trouble>,
}

#[derive(Deserialize)]
struct Payload {
    text: Option<String>,
}

#[derive(Deserialize, Clone, Default)]
struct Tokens {
    #[serde(default)]
    input: Option<u64>,
    #[serde(default)]
    output: Option<u64>,
    #[serde(default)]
    total: Option<u64>,
}

#[derive(Deserialize)]
struct Tools {
    calls: Option<u64>,
}

#[derive(Deserialize, Clone, Default)]
struct Trouble {
    message: Option<String>,
    kind: Option<String>,
}

impl Envelope {
    /// The final text; where it is empty, the texts that were meant for a person.
    fn answer(&self) -> String {
        match self.answer.as_deref().filter(|t| !t.is_empty()) {
            Some(text) => text.to_owned(),
            None if self.ok => {
                let texts = self.payloads.iter().flatten().filter_map(|p| p.text.as_deref());
                texts.collect::<Vec<_>>().join("\n")
            }
            None => String::new(),
        }
    }

    fn usage(&self, agent: &str) -> Usage {
        let tokens = self.usage.clone().unwrap_or_default();
        Usage {
            agent: agent.to_owned(),
            provider: quote(self.provider.as_deref().unwrap_or_default()),
            model: quote(self.model.as_deref().unwrap_or_default()),
            input: tokens.input.unwrap_or_default(),
            output: tokens.output.unwrap_or_default(),
            total: tokens.total.unwrap_or_default(),
            tool_calls: self.tool_summary.as_ref().and_then(|t| t.calls).unwrap_or_default(),
            turns: self.assistant_turns.unwrap_or_default(),
        }
    }
}

fn failed(exit: Exit, reason: String) -> Exit {
    Exit { kind: Kind::Failed, code: exit.code.filter(|c| *c != 0).or(Some(1)), reason, ..exit }
}

/// The process is over and its standard output is no envelope: why that may be.
fn no_envelope(exit: Exit, stdout: &[u8], error: &serde_json::Error, shown: &Capture) -> Exit {
    let complaint = shown.error_line(QUOTE_CHARS, is_about_node);
    if let Some(line) = complaint {
        return failed(exit, format!("OpenClaw needs a newer Node.js than the one it finds on this node: {}", quote(&line)));
    }
    let how = match exit.kind {
        Kind::Done => "it ended with exit code 0".to_owned(),
        _ => format!("it {}", exit.reason),
    };
    let text = String::from_utf8_lossy(stdout.get(..stdout.len().min(4096)).unwrap_or_default()).into_owned();
    if text.trim().is_empty() {
        return failed(exit, format!("the agent wrote no envelope to its standard output; {how}"));
    }
    let reason = format!("the agent's standard output is no envelope ({}; it begins {:?}); {how}", quote(&error.to_string()), quote(&text));
    failed(exit, reason)
}

/// OpenClaw's launcher says, for instance, `openclaw: Node 20.20.2: node:sqlite is unavailable; use 24.16+/26.1+`.
fn is_about_node(line: &str) -> bool {
    line.starts_with("openclaw: Node ") || (line.starts_with("openclaw") && line.contains("requires Node"))
}

/// A foreign text as part of a sentence: one line, bounded.
fn quote(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTE_CHARS).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Copies a skill's folder. Links and devices are left out: they would lead elsewhere.
fn place(from: &Path, to: &Path) -> Result<(), String> {
    let mut left = Left { files: SKILL_FILES_MAX, bytes: SKILL_BYTES_MAX };
    copy(from, to, SKILL_DEPTH_MAX, &mut left).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => format!(
            "the skill's folder {} is too large to be given to an agent: at most {SKILL_FILES_MAX} files, {} and {SKILL_DEPTH_MAX} levels",
            from.display(),
            bytesize::ByteSize::b(SKILL_BYTES_MAX)
        ),
        _ => format!("the skill's folder {} cannot be copied for the agent: {error}", from.display()),
    })
}

struct Left {
    files: usize,
    bytes: u64,
}

fn copy(from: &Path, to: &Path, levels: usize, left: &mut Left) -> io::Result<()> {
    let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        left.files = left.files.checked_sub(1).ok_or_else(too_large)?;
        let (kind, to) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            let levels = levels.checked_sub(1).ok_or_else(too_large)?;
            copy(&entry.path(), &to, levels, left)?;
        } else if kind.is_file() {
            let source = fs::File::open(entry.path())?;
            let mode = source.metadata()?.permissions();
            // One byte more than is left shows that it is too much, also when the file grows meanwhile.
            let mut target = fs::File::create(&to)?;
            let written = io::copy(&mut source.take(left.bytes + 1), &mut target)?;
            left.bytes = left.bytes.checked_sub(written).ok_or_else(too_large)?;
            target.set_permissions(mode)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "helpers of tests")]
    use super::*;

    fn run(argv: &[&str]) -> AgentRun {
        AgentRun {
            name: "openclaw".into(),
            argv: argv.iter().map(|a| (*a).to_owned()).collect(),
            envelope: true,
            prompt: b"hello".to_vec(),
            skill: None,
            limit: Some(Duration::from_millis(2_500)),
            env: Vec::new(),
        }
    }

    fn ended(kind: Kind, code: i32, stdout: &str, stderr: &str) -> (Exit, String) {
        let (hidden, shown) = (Capture::new(1 << 20), Capture::new(1 << 20));
        hidden.push(Stream::Stdout, stdout.as_bytes());
        shown.push(Stream::Stderr, stderr.as_bytes());
        let how = if code == 0 { "completed".into() } else { format!("exited with code {code}") };
        let exit = run(&[]).judge(Exit::new(kind, Some(code), how), Some(&hidden), &shown);
        (exit, String::from_utf8(shown.content(Stream::Stdout).bytes).unwrap())
    }

    #[test]
    fn an_answer_is_the_final_text_with_what_it_took() {
        let json = r#"{"ok":true,"status":"ok","final":"RESULT: 42","payloads":[{"text":"RESULT: 42","mediaUrl":null}],
            "usage":{"input":20,"output":3,"cacheRead":0,"total":23,"cost":{"total":0}},"assistantTurns":2,
            "toolSummary":{"calls":1,"tools":["exec"],"failures":0},"model":"m","provider":"p","sessionId":"x"}"#;
        let (exit, text) = ended(Kind::Done, 0, json, "");
        assert_eq!((exit.kind, exit.code, text.as_str()), (Kind::Done, Some(0), "RESULT: 42"));
        assert_eq!(exit.reason, "answered by openclaw with p/m: 20 tokens in, 3 out, 1 call of a tool");
        let usage = exit.usage.unwrap();
        assert_eq!((usage.total, usage.tool_calls, usage.turns, usage.model.as_str()), (23, 1, 2, "m"));
        let (exit, text) = ended(Kind::Done, 0, r#"{"ok":true,"payloads":[{"text":"a"},{"mediaUrl":"u"},{"text":"b"}]}"#, "");
        assert_eq!((exit.kind, text.as_str()), (Kind::Done, "a\nb"), "an older version without a final text");
    }

    #[test]
    fn failures_are_told_apart() {
        let model =
            r#"{"ok":false,"status":"error","final":"","payloads":[],"model":null,"error":{"message":"HTTP\n500","kind":"exception"}}"#;
        let timeout = r#"{"ok":false,"status":"timeout","final":"","payloads":[{"text":"late","isError":true}],"error":{"message":"m","kind":"timeout"}}"#;
        let node = "warning\nopenclaw: Node 20.20.2: node:sqlite is unavailable; use 24.16+/26.1+\n  nvm install 26\n";
        for (code, stdout, stderr, kind, why) in [
            (1, model, "", Kind::Failed, "the agent failed: HTTP 500 (exception)"),
            (2, timeout, "", Kind::Timeout, "ran into its timeout of 2s 500ms"),
            (1, "", node, Kind::Failed, "needs a newer Node.js than the one it finds on this node: openclaw: Node 20.20.2"),
            (0, "", "", Kind::Failed, "wrote no envelope to its standard output; it ended with exit code 0"),
            (7, " \n", "", Kind::Failed, "wrote no envelope to its standard output; it exited with code 7"),
            (0, "Usage: openclaw", "", Kind::Failed, "is no envelope"),
            (0, "[]", "", Kind::Failed, "is no envelope"),
            (3, r#"{"ok":true,"status":"ok","final":"x"}"#, "", Kind::Failed, "says that all went well, but it exited with code 3"),
            (0, r#"{"ok":false}"#, "", Kind::Failed, "the agent failed: it does not say why"),
        ] {
            let first = if code == 0 { Kind::Done } else { Kind::Failed };
            let (exit, _) = ended(first, code, stdout, stderr);
            assert_eq!(exit.kind, kind, "{stdout}");
            assert!(exit.reason.contains(why), "{}", exit.reason);
            assert!(exit.kind == Kind::Timeout || exit.code.is_some_and(|c| c != 0), "{exit:?}");
        }
        let (exit, text) = ended(Kind::Failed, 2, timeout, "");
        assert_eq!((exit.kind, text.as_str()), (Kind::Timeout, ""), "what it says about its failure is no answer");
    }

    #[test]
    fn what_is_no_envelope_never_panics() {
        for bytes in [&b"\xff\xfe"[..], b"{", b"{\"ok\":1}", b"{\"ok\":true,\"usage\":{\"input\":-1}}", &[b'['; 100_000]] {
            let hidden = Capture::new(1 << 20);
            hidden.push(Stream::Stdout, bytes);
            let exit = run(&[]).judge(Exit::new(Kind::Done, Some(0), "completed"), Some(&hidden), &Capture::new(100));
            assert_eq!(exit.kind, Kind::Failed);
            assert!(exit.reason.len() < 1000, "{}", exit.reason);
        }
    }

    #[test]
    fn an_envelope_beyond_the_cap_is_a_failure() {
        let hidden = Capture::new(100);
        hidden.push(Stream::Stdout, &[b'x'; 200]);
        let exit = run(&[]).judge(Exit::new(Kind::Done, Some(0), "completed"), Some(&hidden), &Capture::new(100));
        assert_eq!((exit.kind, exit.code), (Kind::Failed, Some(1)));
        assert!(exit.reason.contains("wrote more than"), "{}", exit.reason);
    }

    #[tokio::test]
    async fn placeholders_are_filled_and_the_prompt_may_come_as_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let by_stdin = run(&["a", "--cwd", "{dir}", "--timeout", "{timeout}"]);
        let argv = by_stdin.furnish(dir.path()).await.unwrap();
        assert_eq!(argv, ["a", "--cwd", &dir.path().to_string_lossy(), "--timeout", "3"]);
        assert_eq!(by_stdin.stdin(), Some(&b"hello"[..]));
        let by_file = run(&["a", "--file={prompt_file}"]);
        let argv = by_file.furnish(dir.path()).await.unwrap();
        assert_eq!(fs::read_to_string(argv[1].strip_prefix("--file=").unwrap()).unwrap(), "hello");
        assert_eq!(by_file.stdin(), None);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_skill_is_copied_without_its_links_and_not_when_it_is_too_large() {
        let (home, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let from = home.path().join("my skill");
        fs::create_dir_all(from.join("scripts")).unwrap();
        fs::write(from.join("SKILL.md"), "text").unwrap();
        fs::write(from.join("scripts/x.py"), "1").unwrap();
        std::os::unix::fs::symlink("/etc", from.join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.join("scripts/passwd")).unwrap();
        let skill = PlacedSkill { from: from.clone(), folder: folder_name("my skill") };
        let run = AgentRun { skill: Some(skill), ..run(&["a"]) };
        run.furnish(dir.path()).await.unwrap();
        let at = dir.path().join("skills/my-skill");
        assert_eq!(fs::read_to_string(at.join("SKILL.md")).unwrap(), "text");
        assert!(at.join("scripts/x.py").is_file() && !at.join("etc").exists() && !at.join("scripts/passwd").exists());
        fs::File::create(from.join("huge")).unwrap().set_len(SKILL_BYTES_MAX + 1).unwrap();
        let why = run.furnish(dir.path()).await.unwrap_err();
        assert!(why.contains("too large to be given to an agent"), "{why}");
        fs::remove_file(from.join("huge")).unwrap();
        let deep = (0..=SKILL_DEPTH_MAX).fold(from.clone(), |d, i| d.join(i.to_string()));
        fs::create_dir_all(&deep).unwrap();
        assert!(run.furnish(dir.path()).await.unwrap_err().contains("too large"));
    }

    #[test]
    fn names_become_folders() {
        assert_eq!(folder_name("pdf_tools-2"), "pdf_tools-2");
        assert_eq!(folder_name("../../etc"), "------etc");
        assert_eq!(folder_name(".."), "skill");
        assert_eq!(folder_name(&"é".repeat(200)), "skill");
    }
}
