//! Settings of the whole mesh by name: replicated with the coordinator's writes, with a short log of who changed what.

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};

use crate::{
    codec::{self, Blob},
    face::{Refusal, SettingChangeView, SettingsView},
    ids::{Epoch, Peer},
    mesh::Mesh,
    message::{ChangeSetting, Message, Setting, SettingChange, Settings, SettingsRefused},
    query::to_cbor,
    record::clip,
    schedule::Key,
    spec::Strategy,
    writes::Effect,
};

/// The one setting that the mesh itself reads.
const STRATEGY: &str = "strategy";
/// Longest name, bytes.
pub const KEY_MAX: usize = 64;
/// Longest value, bytes.
pub const VALUE_MAX: usize = 1_024;
/// All names and values together, encoded, bytes: with the log they fit into one store entry.
pub const VALUES_MAX: usize = 2_048;
/// Changes that are remembered.
pub const LOG_MAX: usize = 12;
/// Characters of a value and of a user's name in the log.
const LOGGED_MAX: usize = 40;

impl Settings {
    /// Nothing was ever set.
    pub(crate) fn none() -> Self {
        Self {
            epoch: Epoch::ZERO,
            seq: 0,
            strategy: Strategy::default(),
            members: Blob::default(),
            proto: 0,
            values: Vec::new(),
            log: Vec::new(),
            ext: Default::default(),
        }
    }

    fn set(&mut self, key: &str, value: Option<&str>) {
        self.values.retain(|s| s.key != key);
        if let Some(v) = value {
            self.values.push(Setting { key: key.into(), value: v.into(), ext: Default::default() });
            self.values.sort_by(|a, b| a.key.cmp(&b.key));
        }
    }
}

/// A name of the users' own has a dot in it, so that a misspelt name of the mesh's own is none.
fn own_name(key: &str) -> bool {
    let letters = key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'));
    letters && key.len() <= KEY_MAX && key.contains('.') && !key.starts_with('.') && !key.ends_with('.')
}

fn strategy(value: &str) -> Result<Strategy, String> {
    let names = "least_tasks, round_robin, best_fit, random, affinity";
    value.parse().map_err(|_| format!("'{value}' is no strategy: there are {names}"))
}

impl Mesh {
    /// The settings as they are after the change.
    ///
    /// # Errors
    /// A sentence: the name or the value is not possible.
    fn changed(&self, mut s: Settings, m: &ChangeSetting, by: Peer) -> Result<Settings, String> {
        match (&*m.key, &m.value) {
            (STRATEGY, v) => s.strategy = v.as_deref().map_or_else(|| Ok(Strategy::default()), strategy)?,
            (key, _) if !own_name(key) => {
                return Err(format!(
                    "there is no setting '{}': there is 'strategy', and names of your own have a dot in them, as in 'lab.model-url' (small letters, digits, '-', '_', at most {KEY_MAX})",
                    clip(key, 80)
                ));
            }
            (_, Some(v)) if v.len() > VALUE_MAX => {
                return Err(format!(
                    "the value has {} bytes, at most {VALUE_MAX} are allowed: 'clawmesh blobs put' shares larger things",
                    v.len()
                ));
            }
            (key, None) if !s.values.iter().any(|x| x.key == key) => {
                return Err(format!("the setting '{key}' is not set: 'clawmesh config ls --mesh' lists them"));
            }
            (key, value) => s.set(key, value.as_deref()),
        }
        if codec::encode(&s.values).len() > VALUES_MAX {
            return Err(format!(
                "all settings together would have more than {VALUES_MAX} bytes: remove some ('clawmesh config unset --mesh NAME')"
            ));
        }
        s.log.push(SettingChange {
            key: m.key.clone(),
            value: clip(m.value.as_deref().unwrap_or_default(), LOGGED_MAX),
            gone: m.value.is_none(),
            by,
            user: clip(&m.user, LOGGED_MAX),
            at: self.wall,
            ext: Default::default(),
        });
        let old = s.log.len().saturating_sub(LOG_MAX);
        s.log.drain(..old);
        Ok(s)
    }

    pub(crate) fn on_change_setting(&mut self, from: Peer, m: ChangeSetting) {
        let new = self.new_settings().filter(|_| self.co.as_ref().is_some_and(|c| c.serving()));
        let Some(s) = new else {
            return self.not_coordinator(from, m.req, None);
        };
        match self.changed(s, &m, from) {
            Ok(s) => {
                self.settings = Some(s);
                self.settings_effect(Effect::SettingsAck(from, m.req));
                self.capacity_changed();
            }
            Err(message) => {
                let refusal = Blob(to_cbor(&Refusal::Invalid { message }));
                self.send(from, Message::SettingsRefused(SettingsRefused { req: m.req, refusal, ext: Default::default() }));
            }
        }
    }

    pub(crate) fn settings_view(&self) -> SettingsView {
        let none = Settings::none();
        let s = self.settings.as_ref().unwrap_or(&none);
        let mut values: BTreeMap<String, String> = s.values.iter().map(|x| (x.key.clone(), x.value.clone())).collect();
        values.insert(STRATEGY.into(), s.strategy.to_string());
        let log = s.log.iter().map(|c| SettingChangeView {
            key: c.key.clone(),
            value: (!c.gone).then(|| c.value.clone()),
            node: c.by,
            name: self.name_of(&c.by),
            user: c.user.clone(),
            at: c.at,
        });
        SettingsView { values, log: log.collect() }
    }

    /// Two entries, because the names of the members alone may almost fill one.
    pub(crate) fn keep_settings(&mut self, s: &Settings) {
        let (values, log) = (s.values.clone(), s.log.clone());
        let rest = Settings { values: Vec::new(), log: Vec::new(), ..s.clone() };
        self.put(Key::settings(), codec::encode(&rest));
        if !values.is_empty() || !log.is_empty() {
            self.put(Key::values(), codec::encode(&Settings { values, log, epoch: s.epoch, seq: s.seq, ..Settings::none() }));
        }
    }

    pub(crate) fn load_settings(&mut self, s: Settings) {
        let (values, log) = self.settings.take().map(|o| (o.values, o.log)).unwrap_or_default();
        self.settings = Some(Settings { values, log, ..s });
    }

    pub(crate) fn load_values(&mut self, s: Settings) {
        let old = self.settings.take().unwrap_or_else(Settings::none);
        self.settings = Some(Settings { values: s.values, log: s.log, ..old });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ones_own_have_a_dot_and_plain_letters() {
        for good in ["lab.model-url", "a.b", "x.y.z_1"] {
            assert!(own_name(good), "{good}");
        }
        for bad in ["", ".", "a", ".a", "a.", "A.b", "a b.c", "lab.mödel", &"a.".repeat(40)] {
            assert!(!own_name(bad), "{bad}");
        }
    }
}
