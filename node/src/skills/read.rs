//! One skill folder into one skill.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::frontmatter::{self, Fields, Refused, trim};
use super::gate::{self, Host, Seen};
use super::legacy::{self, Legacy};
use super::{NAME_BYTES_MAX, Problem, RESERVED_NAMES, Root, Skill, Source, folder, manifest, openclaw, walk};

/// A larger note of where a skill was installed from is not read, in bytes; as in OpenClaw.
const ORIGIN_BYTES_MAX: u64 = 16_384;

/// The file that makes the folder a skill.
pub(super) fn file_of(dir: &Path) -> PathBuf {
    let file = dir.join(folder::SKILL_FILE);
    if walk::is_there(dir, &file) { file } else { dir.join(legacy::FILE) }
}

/// Reads and judges a skill; its content is not looked at, see [`add_content`].
pub(super) fn skill(dir: &Path, root: &Root, host: &Host, seen: &mut Seen) -> Result<Skill, Box<Refused>> {
    let refused = |problem| Box::new(Refused { problem, fields: Fields::new() });
    let (mut fields, legacy) = match walk::is_there(dir, &dir.join(folder::SKILL_FILE)) {
        true => {
            let text = folder::read(dir, root.file_bytes_max).map_err(refused)?;
            // Beside a SKILL.md, the older file only adds; that it is broken does not matter then.
            let legacy = if legacy::is_there(dir) { legacy::read(dir).unwrap_or_default() } else { Legacy::default() };
            (frontmatter::parse(&text)?, Legacy { name: None, description: None, run: None, ..legacy })
        }
        false => (Fields::new(), legacy::read(dir).map_err(refused)?),
    };
    let fallback = || dir.file_name().map(|name| trim(&name.to_string_lossy()).to_owned()).unwrap_or_default();
    let field = |key: &str| fields.get(key).map(|text| trim(text).to_owned()).filter(|text| !text.is_empty());
    let name = field("name").or(legacy.name).unwrap_or_else(fallback);
    let Some(description) = field("description").or(legacy.description) else {
        return Err(Box::new(Refused { problem: Problem::new("NO_DESCRIPTION", "description is required"), fields }));
    };
    let metadata = openclaw::metadata(&fields);
    let declared = manifest::declared(&metadata).map_err(|problem| Box::new(Refused { problem, fields: std::mem::take(&mut fields) }))?;
    let mut demands = openclaw::from_metadata(&metadata);
    let (os, notes) = gate::normalise_os(&demands.os);
    demands.os = os;
    let key = demands.skill_key.clone().or_else(|| installed_as(dir)).unwrap_or_else(|| name.clone());
    let missing = gate::judge(&demands, &key, host, seen);
    let blocked = gate::blocked(&name, &key, root.is_bundled(), &host.settings);
    let refused = check_name(&name).err();
    let field = |key: &str| fields.get(key).filter(|text| !text.is_empty()).cloned();
    let tags = [declared.tags, field("tags").map(|text| tag_list(&text)).unwrap_or_default(), legacy.tags];
    let tags = tags.into_iter().find(|tags| !tags.is_empty()).unwrap_or_default();
    let depends = if declared.depends.is_empty() { legacy.depends } else { declared.depends };
    Ok(Skill {
        hints: gate::install_hints(&demands.install, &missing, host, seen),
        version: declared.version.or_else(|| field("version")).or(legacy.version),
        category: declared.category.or_else(|| field("category")).or(legacy.category),
        homepage: demands.homepage.or_else(|| ["homepage", "website", "url"].into_iter().find_map(field)),
        emoji: demands.emoji.or_else(|| field("emoji")),
        name,
        description,
        tags: tags.into_iter().collect::<BTreeSet<_>>().into_iter().collect(),
        depends,
        resources: declared.resources,
        dir: dir.to_owned(),
        hash: blake3::Hash::from_bytes([0; 32]),
        shareable: false,
        run: declared.run.or(legacy.run),
        requires: demands.requires,
        os: demands.os,
        always: demands.always,
        key,
        primary_env: demands.primary_env,
        install: demands.install,
        source: Source { name: root.source, root: root.path.clone() },
        eligible: missing.is_empty() && blocked.is_none() && refused.is_none(),
        missing,
        blocked,
        refused,
        notes,
    })
}

/// Adds the content's hash. Reads up to 1 MiB.
pub(super) fn add_content(skill: &mut Skill) {
    let content = folder::content_hash(&skill.dir);
    skill.hash = content.hash;
    skill.shareable = content.whole;
}

/// The name under which OpenClaw installed it from elsewhere; its configuration knows it by that.
fn installed_as(dir: &Path) -> Option<String> {
    let bytes = folder::read_file(&dir.join(".openclaw/source-origin.json"), ORIGIN_BYTES_MAX).ok()?;
    let origin: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    origin.get("slug")?.as_str().map(|slug| trim(slug).to_owned()).filter(|slug| !slug.is_empty())
}

/// OpenClaw takes any name; the mesh needs one that it can print, advertise and tell from its own.
fn check_name(name: &str) -> Result<(), Problem> {
    if RESERVED_NAMES.contains(&name) {
        return Err(Problem::new("RESERVED_NAME", format!("the name {name:?} belongs to a builtin of the mesh; choose another")));
    }
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Problem::new("BAD_NAME", format!("a name must have 1 to {NAME_BYTES_MAX} bytes and no control characters")));
    }
    Ok(())
}

/// Tags at the top of a front matter, where publishing sites put them: a list, or texts with commas.
fn tag_list(text: &str) -> Vec<String> {
    let value = serde_json::from_str(text).unwrap_or_else(|_| serde_json::Value::String(text.to_owned()));
    openclaw::strings(Some(&value))
}
