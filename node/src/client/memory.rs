//! Notes of the mesh.

use reqwest::Method;

use super::{Client, ClientError, escape};
use crate::api::{MemoryView, NewNote, NoteView, SyncView};

impl Client {
    /// Writes a note on this node; answers when it is durable.
    ///
    /// # Errors
    /// Any [`ClientError`]; nothing is written then.
    pub(crate) async fn note(&self, note: &NewNote) -> Result<NoteView, ClientError> {
        self.answer(self.request(Method::POST, "/api/v1/memory/notes").json(note)).await
    }
    /// Whose notes this node keeps.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn memory(&self) -> Result<MemoryView, ClientError> {
        self.get("/memory").await
    }
    /// Notes with all of these words, newest first.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn notes(
        &self,
        words: &str,
        node: Option<&str>,
        day: Option<&str>,
        limit: usize,
    ) -> Result<Vec<NoteView>, ClientError> {
        let mut query = format!("q={}&limit={limit}", escape(words));
        for (name, value) in [("node", node), ("day", day)] {
            query.push_str(&value.map_or(String::new(), |v| format!("&{name}={}", escape(v))));
        }
        self.get(&format!("/memory/notes?{query}")).await
    }
    /// Asks all members that share notes, now.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn sync_notes(&self) -> Result<SyncView, ClientError> {
        self.answer(self.request(Method::POST, "/api/v1/memory/sync")).await
    }
}
