//! OpenClaw's configuration as one value: files that it includes, variables that it names, and its file of variables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::openclaw;

/// Longest file that is read, bytes; as OpenClaw's for included ones, and far above any configuration.
const BYTES_MAX: u64 = 2 << 20;
/// Files within files; as in OpenClaw.
const DEPTH_MAX: usize = 10;
/// Files of one configuration. OpenClaw has no such bound.
const FILES_MAX: usize = 200;
/// The key by which a configuration names other files.
const INCLUDE: &str = "$include";

/// Reads a configuration. Files that it includes must lie in its own folder, or in one of `roots`.
///
/// # Errors
/// A sentence that tells nothing of the content, which may be a secret; the files that were read are in `files` all the same.
pub(super) fn load(path: &Path, roots: &[PathBuf], files: &mut BTreeSet<PathBuf>) -> Result<Value, String> {
    files.insert(path.to_owned());
    if fs::metadata(path).is_err() {
        return Ok(Value::Null);
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    let roots = std::iter::once(dir).chain(roots.iter().map(PathBuf::as_path)).filter_map(|root| root.canonicalize().ok());
    let mut loader = Loader { roots: roots.collect(), files };
    let own = read(path)?;
    loader.resolve(own, path, &mut vec![path.to_owned()])
}

fn read(path: &Path) -> Result<Value, String> {
    let told = |why: String| format!("{} {why}", path.display());
    let meta = fs::metadata(path).map_err(|e| told(format!("cannot be read: {e}")))?;
    if !meta.is_file() || meta.len() > BYTES_MAX {
        return Err(told(format!("is no file of at most {BYTES_MAX} bytes")));
    }
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text)).map_err(|e| told(format!("cannot be read: {e}")))?;
    openclaw::json5(text.strip_prefix('\u{feff}').unwrap_or(&text)).ok_or_else(|| told("is neither JSON nor JSON5".to_owned()))
}

struct Loader<'a> {
    /// Without links.
    roots: Vec<PathBuf>,
    files: &'a mut BTreeSet<PathBuf>,
}

impl Loader<'_> {
    /// `open`: the files that lead here, the last one being that of `value`.
    fn resolve(&mut self, value: Value, file: &Path, open: &mut Vec<PathBuf>) -> Result<Value, String> {
        match value {
            Value::Array(list) => list.into_iter().map(|v| self.resolve(v, file, open)).collect::<Result<_, _>>().map(Value::Array),
            Value::Object(mut map) => {
                let included = map.remove(INCLUDE).map(|names| self.include(names, file, open)).transpose()?;
                let mut rest = serde_json::Map::new();
                for (key, value) in map {
                    rest.insert(key, self.resolve(value, file, open)?);
                }
                match included {
                    None => Ok(Value::Object(rest)),
                    Some(all) if rest.is_empty() => Ok(all),
                    Some(all @ Value::Object(_)) => Ok(merged(all, Value::Object(rest))),
                    Some(_) => Err(format!("{} has keys beside an {INCLUDE} of something else than an object", file.display())),
                }
            }
            plain => Ok(plain),
        }
    }

    fn include(&mut self, names: Value, file: &Path, open: &mut Vec<PathBuf>) -> Result<Value, String> {
        match names {
            Value::String(name) => self.file(&name, file, open),
            Value::Array(list) => {
                let mut all = Value::Object(serde_json::Map::new());
                for name in list {
                    let name = name.as_str().ok_or_else(|| format!("{} has an {INCLUDE} that is no text", file.display()))?;
                    all = merged(all, self.file(name, file, open)?);
                }
                Ok(all)
            }
            _ => Err(format!("{} has an {INCLUDE} that is no text and no list of texts", file.display())),
        }
    }

    fn file(&mut self, name: &str, from: &Path, open: &mut Vec<PathBuf>) -> Result<Value, String> {
        let path = from.parent().unwrap_or(Path::new(".")).join(name);
        let told = |why: &str| format!("{} includes {}, {why}", from.display(), path.display());
        self.files.insert(path.clone());
        let real = path.canonicalize().map_err(|e| told(&format!("which cannot be read: {e}")))?;
        if !self.roots.iter().any(|root| real.starts_with(root)) {
            return Err(told("which is not in the configuration's folder"));
        }
        if open.iter().any(|p| p.canonicalize().is_ok_and(|p| p == real)) {
            return Err(told("which includes it in turn"));
        }
        if open.len() > DEPTH_MAX || self.files.len() > FILES_MAX {
            return Err(told("which is one file too many"));
        }
        let value = read(&path)?;
        open.push(path.clone());
        let resolved = self.resolve(value, &path, open);
        open.pop();
        resolved
    }
}

/// `over` wins; lists are joined, objects merged.
fn merged(under: Value, over: Value) -> Value {
    match (under, over) {
        (Value::Array(mut list), Value::Array(more)) => {
            list.extend(more);
            Value::Array(list)
        }
        (Value::Object(mut map), Value::Object(more)) => {
            for (key, value) in more {
                let value = match map.remove(&key) {
                    Some(old) => merged(old, value),
                    None => value,
                };
                map.insert(key, value);
            }
            Value::Object(map)
        }
        (_, over) => over,
    }
}

/// The variables in a `.env` file; lines that are none are passed over, as there.
pub(super) fn dotenv(path: &Path) -> BTreeMap<String, String> {
    let Ok(file) = File::open(path) else { return BTreeMap::new() };
    dotenvy::Iter::new(file.take(BYTES_MAX)).filter_map(Result::ok).collect()
}

/// Puts in the values of the variables that texts name as `${NAME}`; `$${NAME}` stays as `${NAME}`, and so does what is not set.
pub(super) fn substitute(value: &mut Value, var: &dyn Fn(&str) -> Option<String>) {
    match value {
        Value::String(text) if text.contains("${") => *text = substituted(text, var),
        Value::Array(list) => list.iter_mut().for_each(|v| substitute(v, var)),
        Value::Object(map) => map.values_mut().for_each(|v| substitute(v, var)),
        _ => {}
    }
}

fn substituted(text: &str, var: &dyn Fn(&str) -> Option<String>) -> String {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
            && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        let named = from.get(2..).and_then(|r| r.split_once('}')).filter(|(name, _)| is_name(name));
        let Some((name, after)) = named else {
            out.push_str(before);
            out.push_str("${");
            rest = from.get(2..).unwrap_or_default();
            continue;
        };
        match (before.strip_suffix('$'), var(name).filter(|v| !v.is_empty())) {
            (Some(before), _) => out.push_str(&format!("{before}${{{name}}}")),
            (None, Some(value)) => out.push_str(&format!("{before}{value}")),
            (None, None) => out.push_str(&format!("{before}${{{name}}}")),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}
