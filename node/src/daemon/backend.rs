//! The node as the API sees it.

use std::sync::{Arc, PoisonError};

use clawmesh_protocol::{
    face::{Command, DataView, Reply},
    ids::{Hash, Peer, ShortId},
    io::{Input, Source},
    spec::{Data, PAYLOAD_MAX},
};
use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{bulk, driver::Call, notes::Notes, run, sharing::Shared};
use crate::{
    api::{Backend, Gone, LogStream, Memory, NodeInfo, Sharing, types::LocalSkill},
    exec::Executor,
    net::Net,
    store::{BlobHash, Store},
};

/// Largest output that the API reads into memory.
const DATA_MAX: u64 = 160 << 20;

/// What the API needs of the running node.
pub(crate) struct Node {
    pub(crate) me: Peer,
    pub(crate) calls: mpsc::Sender<Call>,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) store: Arc<Store>,
    pub(crate) net: Arc<Net>,
    pub(crate) exec: Executor,
    pub(crate) registry: Arc<Registry>,
    pub(crate) shelf: run::Shelf,
    pub(crate) info: NodeInfo,
    pub(crate) stop: CancellationToken,
    pub(crate) shared: Shared,
    pub(crate) notes: Notes,
}

impl Backend for Node {
    fn call(&self, cmd: Command) -> BoxFuture<'_, Result<Reply, Gone>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            self.calls.send(Call { cmd, reply }).await.map_err(|_| Gone)?;
            answer.await.map_err(|_| Gone)
        })
    }

    fn store_payload(&self, work: Vec<u8>) -> BoxFuture<'_, Result<Data, String>> {
        Box::pin(async move {
            let data = run::keep(work, &self.store).await?;
            if let Some(h) = data.blob() {
                // Before the submit that names it, on the same queue as every other input.
                self.inputs.send(Input::Blob(h, true)).await.map_err(|_| Gone.to_string())?;
            }
            Ok(data)
        })
    }

    fn read_data(&self, data: DataView, from: Option<Peer>) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(async move {
            match data {
                DataView::Inline(b) => Ok(b),
                DataView::Blob(hash, _) => self.blob(hash, from).await,
            }
        })
    }

    fn logs(&self, worker: Peer, id: ShortId, attempt: u32, follow: bool) -> BoxFuture<'_, Result<LogStream, String>> {
        Box::pin(async move {
            if worker == self.me {
                return bulk::local_logs(&self.exec, id, attempt, follow).ok_or_else(|| "the attempt does not run here".into());
            }
            bulk::remote_logs(&self.net, self.way(worker).await, id, attempt, follow).await
        })
    }

    fn providers(&self, skill: String) -> BoxFuture<'_, Vec<Peer>> {
        Box::pin(async move { self.net.find_providers(super::dht_key(&skill)).await.into_iter().map(Peer).collect() })
    }

    fn sharing(&self) -> Option<&dyn Sharing> {
        Some(&self.shared)
    }

    fn memory(&self) -> Option<&dyn Memory> {
        Some(&self.notes)
    }

    fn local_skills(&self) -> Vec<LocalSkill> {
        crate::skills::local(&self.shelf.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        if let Err(e) = prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            tracing::warn!(error = %e, "the figures could not be written");
        }
        text
    }

    fn info(&self) -> NodeInfo {
        let mut info = self.info.clone();
        info.mesh_addresses = self.net.addresses().iter().map(ToString::to_string).collect();
        info.ticket = super::ticket_now(&info.home, &self.net, self.me).unwrap_or(info.ticket);
        info
    }

    fn stop(&self) {
        self.stop.cancel();
    }
}

impl Node {
    async fn way(&self, peer: Peer) -> Source {
        self.shared.fetcher.way(peer).await
    }

    async fn blob(&self, hash: Hash, from: Option<Peer>) -> Result<Vec<u8>, String> {
        let mut peers = Vec::new();
        if let Some(p) = from.filter(|p| *p != self.me) {
            peers.push(self.way(p).await);
        }
        peers.extend(self.net.lanes().into_iter().map(|p| Source { peer: Peer(p), via: None }));
        if !bulk::fetch(&self.net, &self.store, hash, PAYLOAD_MAX.max(DATA_MAX), &peers).await {
            return Err("the output is on no node that can be reached now: try again when the node that ran it is back".into());
        }
        self.store.blobs().read_async(BlobHash(hash.0), DATA_MAX).await.map_err(|e| e.to_string())
    }
}
