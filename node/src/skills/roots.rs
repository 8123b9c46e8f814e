//! Where skills are looked for: the node's own folders, and those of an OpenClaw on this machine, in its order of precedence.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::folder::SKILL_FILE_BYTES_MAX;
use super::settings::{Settings, Sources};

/// Skills taken from one folder of OpenClaw; as there.
const OPENCLAW_SKILLS_MAX: usize = 200;
/// Skills taken from a folder of the node's own.
const OWN_SKILLS_MAX: usize = 300;
/// Directories looked into in one directory, unless the configuration says otherwise; as in OpenClaw.
const CHILDREN_MAX: usize = 300;
/// Levels of directories below a folder of skills; as in OpenClaw.
const DEPTH: usize = 6;
/// Levels below any other folder that the configuration names; as in OpenClaw.
const EXTRA_DEPTH: usize = 2;

/// A place where skills are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    /// How many levels of directories below `path` are searched.
    pub(crate) depth: usize,
    /// What kind of place it is: as OpenClaw calls it, or `clawmesh-home`, `clawmesh-extra`.
    pub(crate) source: &'static str,
    /// Links must not lead out of it.
    pub(crate) contained: bool,
    /// Skills taken from here at most.
    pub(crate) skills_max: usize,
    /// Directories looked into in one directory.
    pub(crate) children_max: usize,
    /// Longest SKILL.md, bytes.
    pub(crate) file_bytes_max: u64,
    /// Folders outside that links may lead into.
    pub(crate) targets: Vec<PathBuf>,
}

impl Root {
    /// A folder named for skills, searched six levels deep as OpenClaw does.
    pub(crate) fn skills(path: impl Into<PathBuf>) -> Root {
        Root {
            path: path.into(),
            depth: DEPTH,
            source: "clawmesh-home",
            contained: true,
            skills_max: OWN_SKILLS_MAX,
            children_max: CHILDREN_MAX,
            file_bytes_max: SKILL_FILE_BYTES_MAX,
            targets: Vec::new(),
        }
    }

    /// Any other folder given by the user, searched two levels deep as OpenClaw does, unless it is named `skills`.
    pub(crate) fn extra(path: impl Into<PathBuf>) -> Root {
        let root = Root { source: "clawmesh-extra", ..Root::skills(path) };
        let is_named_so = root.path.file_name().is_some_and(|name| name == "skills");
        Root { depth: if is_named_so { DEPTH } else { EXTRA_DEPTH }, ..root }
    }

    fn openclaw(path: impl Into<PathBuf>, source: &'static str) -> Root {
        Root { source, skills_max: OPENCLAW_SKILLS_MAX, ..Root::skills(path) }
    }

    /// It belongs to the program, and the configuration may allow some of its skills only.
    pub(crate) fn is_bundled(&self) -> bool {
        self.source == "openclaw-bundled"
    }
}

/// What OpenClaw looks at to find its folders.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    /// Environment variables, of those that it reads.
    pub(crate) vars: BTreeMap<String, String>,
    /// The user's home directory.
    pub(crate) home: PathBuf,
    /// Where programs are looked for.
    pub(crate) path: OsString,
    /// Variables that its configuration names are those of this process, too.
    pub(crate) process: bool,
}

const VARS: [&str; 7] = [
    "OPENCLAW_HOME",
    "OPENCLAW_STATE_DIR",
    "OPENCLAW_CONFIG_PATH",
    "OPENCLAW_WORKSPACE_DIR",
    "OPENCLAW_PROFILE",
    "OPENCLAW_BUNDLED_SKILLS_DIR",
    "OPENCLAW_INCLUDE_ROOTS",
];

impl Surroundings {
    /// Those of this process.
    pub(crate) fn current() -> Surroundings {
        use etcetera::BaseStrategy;
        let var = |name: &str| std::env::var(name).ok().map(|value| (name.to_owned(), value));
        Surroundings {
            vars: VARS.into_iter().filter_map(var).collect(),
            home: etcetera::choose_base_strategy().map(|base| base.home_dir().to_owned()).unwrap_or_default(),
            path: std::env::var_os("PATH").unwrap_or_default(),
            process: true,
        }
    }

    fn var(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(|value| value.trim()).filter(|value| !value.is_empty() && !matches!(*value, "undefined" | "null"))
    }

    fn profile(&self) -> Option<&str> {
        self.var("OPENCLAW_PROFILE").filter(|profile| !profile.eq_ignore_ascii_case("default"))
    }

    fn home(&self) -> PathBuf {
        match self.var("OPENCLAW_HOME") {
            Some(home) => expand(home, &self.home),
            None => self.home.clone(),
        }
    }

    /// A path as a user writes it in the configuration.
    fn user_path(&self, text: &str) -> PathBuf {
        expand(text.trim(), &self.home())
    }

    fn default_state(&self) -> PathBuf {
        self.home().join(".openclaw")
    }

    /// OpenClaw's state directory.
    fn state(&self) -> PathBuf {
        if let Some(given) = self.var("OPENCLAW_STATE_DIR") {
            return self.user_path(given);
        }
        if let Some(profile) = self.profile() {
            return self.home().join(format!(".openclaw-{profile}"));
        }
        let state = self.default_state();
        let legacy = self.home().join(".clawdbot");
        if !state.exists() && legacy.exists() { legacy } else { state }
    }

    fn is_default_state(&self) -> bool {
        self.profile().is_none()
            && self.var("OPENCLAW_STATE_DIR").is_none_or(|given| tidy(&self.user_path(given)) == tidy(&self.default_state()))
    }

    /// Where managed skills are kept: beside the configuration, when only that was moved.
    fn managed(&self) -> PathBuf {
        match (self.var("OPENCLAW_STATE_DIR"), self.var("OPENCLAW_CONFIG_PATH")) {
            (None, Some(config)) => self.user_path(config).parent().map_or_else(|| self.state(), Path::to_owned),
            _ => self.state(),
        }
    }

    /// OpenClaw's configuration; perhaps not there.
    pub(crate) fn config(&self) -> PathBuf {
        if let Some(given) = self.var("OPENCLAW_CONFIG_PATH") {
            return self.user_path(given);
        }
        let state = self.state();
        let candidates = ["openclaw.json", "clawdbot.json"].map(|name| state.join(name));
        candidates.iter().find(|path| path.exists()).cloned().unwrap_or_else(|| state.join("openclaw.json"))
    }

    fn workspace(&self, settings: &Settings) -> PathBuf {
        if let Some(given) = &settings.workspace {
            return self.user_path(given);
        }
        if let Some(given) = self.var("OPENCLAW_WORKSPACE_DIR") {
            return self.user_path(given);
        }
        match (self.var("OPENCLAW_STATE_DIR"), self.profile()) {
            (None, None) => self.default_state().join("workspace"),
            _ => self.state().join("workspace"),
        }
    }

    /// The skills that came with the `openclaw` found through PATH.
    fn bundled(&self) -> Option<PathBuf> {
        if let Some(given) = self.var("OPENCLAW_BUNDLED_SKILLS_DIR") {
            return Some(PathBuf::from(given));
        }
        let program = which::which_in("openclaw", Some(&self.path), "/").ok()?;
        let real = program.canonicalize().ok()?;
        // npm puts a link to the package on PATH, or (on Windows, not tried) a script beside its `node_modules`.
        let beside = program.parent().map(|dir| dir.join("node_modules/openclaw"));
        let packages = real.ancestors().skip(1).take(4).map(Path::to_owned).chain(beside);
        packages.filter(|dir| dir.join("package.json").is_file()).map(|dir| dir.join("skills")).find(|dir| dir.is_dir())
    }

    /// OpenClaw's folders, the one that wins first. Those that are not there are named all the same: they may appear.
    pub(crate) fn openclaw_roots(&self, settings: &Settings) -> Vec<Root> {
        let workspace = self.workspace(settings);
        let targets: Vec<PathBuf> = settings.symlink_targets.iter().filter_map(|dir| self.user_path(dir).canonicalize().ok()).collect();
        let linked = |root: Root| Root { targets: targets.clone(), ..root };
        let free = |root: Root| Root { contained: false, ..root };
        let mut roots = vec![
            linked(Root::openclaw(workspace.join("skills"), "openclaw-workspace")),
            linked(Root::openclaw(workspace.join(".agents/skills"), "agents-skills-project")),
        ];
        if self.is_default_state() {
            roots.push(free(Root::openclaw(self.home.join(".agents/skills"), "agents-skills-personal")));
        }
        roots.push(free(Root::openclaw(self.managed().join("skills"), "openclaw-managed")));
        let agent = settings.agent.as_deref().unwrap_or("main");
        let workshop = self.state().join("agents").join(agent).join("agent/workshop-skills");
        roots.push(Root::openclaw(workshop, "openclaw-workshop"));
        roots.extend(self.bundled().map(|dir| Root::openclaw(dir, "openclaw-bundled")));
        // Of several, the last one wins there.
        let extra = settings.extra_dirs.iter().rev().map(|dir| {
            let root = Root::extra(self.user_path(dir));
            linked(Root { source: "openclaw-extra", skills_max: OPENCLAW_SKILLS_MAX, ..root })
        });
        // OpenClaw links the skills of its plugins in here.
        roots.push(Root { depth: 1, ..free(Root::openclaw(self.managed().join("plugin-skills"), "openclaw-plugin")) });
        roots.extend(extra);
        let limited = |root: Root| Root {
            skills_max: settings.skills_max.unwrap_or(root.skills_max),
            children_max: settings.children_max.unwrap_or(root.children_max),
            file_bytes_max: settings.file_bytes_max.unwrap_or(root.file_bytes_max),
            ..root
        };
        roots.into_iter().map(limited).collect()
    }

    /// OpenClaw's configuration as it is now.
    pub(crate) fn settings(&self) -> Settings {
        let roots: Vec<PathBuf> = self.var("OPENCLAW_INCLUDE_ROOTS").into_iter().flat_map(std::env::split_paths).collect();
        let roots: Vec<PathBuf> = roots.iter().map(|root| self.user_path(&root.to_string_lossy())).collect();
        let mut dotenv = vec![self.state().join(".env")];
        if self.is_default_state() {
            // Of an installation as a service.
            dotenv.push(self.home().join(".config/openclaw/gateway.env"));
        }
        let var = |name: &str| {
            let own = if self.process { std::env::var(name).ok() } else { None };
            own.or_else(|| self.vars.get(name).cloned())
        };
        Settings::read(&self.config(), &Sources { roots: &roots, dotenv: &dotenv, var: &var })
    }
}

/// `~` is the home.
fn expand(text: &str, home: &Path) -> PathBuf {
    match text.strip_prefix('~') {
        Some("") => home.to_owned(),
        Some(rest) if rest.starts_with(['/', '\\']) => home.join(rest.trim_start_matches(['/', '\\'])),
        _ => std::path::absolute(text).unwrap_or_else(|_| PathBuf::from(text)),
    }
}

/// Without `.` and `..`, for comparing.
fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(tidy.pop()),
            other => tidy.push(other),
        }
    }
    tidy
}
