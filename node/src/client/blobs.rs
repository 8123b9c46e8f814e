//! Shared blobs and published skills.

use std::io;

use axum::body::Bytes;
use clawmesh_protocol::ids::Peer;
use futures::{Stream, StreamExt, TryStreamExt};
use reqwest::{Body, Method};
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    io::StreamReader,
};

use super::{Client, ClientError, chain, escape};
use crate::{
    api::{BlobView, FetchLine, OfferView, types::Done},
    share::Offer,
};

/// Longest line of the answer to a fetch, bytes.
const LINE_MAX: usize = 64 << 10;

impl Client {
    /// Puts the content of a stream of `len` bytes (0 = unknown); answers when it is durable.
    ///
    /// # Errors
    /// Any [`ClientError`]; nothing is kept then.
    pub(crate) async fn put_blob(
        &self,
        name: &str,
        pin: bool,
        len: u64,
        content: impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static,
    ) -> Result<BlobView, ClientError> {
        let request = self.request(Method::POST, &format!("/api/v1/blobs?name={}&pin={pin}&len={len}", escape(name)));
        // No time limit: it takes as long as the content is long.
        let response = self.send(request.body(Body::wrap_stream(content))).await?;
        let bytes = response.bytes().await.map_err(|e| ClientError::Broken { why: chain(&e) })?;
        serde_json::from_slice(&bytes).map_err(|e| ClientError::Broken { why: format!("its answer is not what this version expects: {e}") })
    }
    /// The blobs of this node.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn blobs(&self) -> Result<Vec<BlobView>, ClientError> {
        self.get("/blobs").await
    }
    /// One blob of this node, by hash or the unique beginning of one.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn blob(&self, hash: &str) -> Result<BlobView, ClientError> {
        self.get(&format!("/blobs/{}/info", escape(hash))).await
    }
    /// The content of a blob of this node, and its length in bytes. An item is an error when it breaks off: it is not whole then.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn blob_content(&self, hash: &str) -> Result<impl Stream<Item = Result<Bytes, ClientError>> + use<>, ClientError> {
        let response = self.send(self.request(Method::GET, &format!("/api/v1/blobs/{}", escape(hash)))).await?;
        Ok(response.bytes_stream().map_err(|e| ClientError::Broken { why: format!("the content broke off: {}", chain(&e)) }))
    }
    /// Brings a blob to this node: how far it is, until it is here or nobody has it.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn fetch_blob(&self, hash: &str) -> Result<impl Stream<Item = Result<FetchLine, ClientError>> + use<>, ClientError> {
        let response = self.send(self.request(Method::POST, &format!("/api/v1/blobs/{}/fetch", escape(hash)))).await?;
        let reader = StreamReader::new(response.bytes_stream().map_err(io::Error::other));
        let lines = FramedRead::new(reader, LinesCodec::new_with_max_length(LINE_MAX));
        Ok(lines.map(|line| {
            let line = line.map_err(|e| ClientError::Broken { why: chain(&e) })?;
            serde_json::from_str(&line)
                .map_err(|e| ClientError::Broken { why: format!("its answer is not what this version expects: {e}") })
        }))
    }
    /// Who holds a blob, by the index.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn blob_holders(&self, hash: &str) -> Result<Vec<Peer>, ClientError> {
        self.get(&format!("/blobs/{}/holders", escape(hash))).await
    }
    /// Removes a blob from this node.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn remove_blob(&self, hash: &str) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &format!("/api/v1/blobs/{}", escape(hash)));
        self.answer::<Done>(request).await.map(drop)
    }
    /// Pins or unpins a blob of this node.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn pin_blob(&self, hash: &str, pinned: bool) -> Result<BlobView, ClientError> {
        let method = if pinned { Method::PUT } else { Method::DELETE };
        self.answer(self.request(method, &format!("/api/v1/blobs/{}/pin", escape(hash)))).await
    }
    /// The skills that members have published: of this name or all, by this node or all.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn offers(&self, name: Option<&str>, from: Option<&str>) -> Result<Vec<OfferView>, ClientError> {
        let query: Vec<String> =
            [name.map(|n| format!("name={}", escape(n))), from.map(|f| format!("from={}", escape(f)))].into_iter().flatten().collect();
        self.get(&format!("/offers?{}", query.join("&"))).await
    }
    /// Publishes a skill whose archive has been put.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn publish(&self, offer: &Offer) -> Result<(), ClientError> {
        self.answer::<Done>(self.request(Method::POST, "/api/v1/offers").json(offer)).await.map(drop)
    }
    /// Takes a published skill back.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub(crate) async fn withdraw(&self, name: &str) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &format!("/api/v1/offers/{}", escape(name)));
        self.answer::<Done>(request).await.map(drop)
    }
}
