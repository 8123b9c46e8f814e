//! Shared blobs and published skills as the API sees them, and what keeps them announced and within their bounds.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use clawmesh_protocol::{
    files::Holder,
    ids::{Hash, Peer},
};
use futures::{StreamExt as _, future::BoxFuture, stream};
use tokio::sync::watch;

use super::{
    bulk::{self, Ask},
    figures::BlobFigures,
    transfer::{Fetcher, Progress, blob_key},
};
use crate::{
    api::Sharing,
    depot::{Depot, Keep},
    net::Net,
    share::{OFFERS_MAX, Offer, Offers},
    store::BlobHash,
};

/// Blobs announced in the index: pinned ones first, then the newest. The others are found by asking who is connected.
const ANNOUNCED_MAX: usize = 1_000;
/// How often the cache is looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Nodes asked for their published skills at a time.
const ASKED_AT_ONCE: usize = 8;
/// Longest wait for one node's list.
const OFFERS_WAIT: Duration = Duration::from_secs(5);
/// Longest look for the holders of a task's inputs.
const HOLDERS_WAIT: Duration = Duration::from_millis(2_500);

/// What this node shares. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) me: Peer,
    pub(crate) net: Arc<Net>,
    pub(crate) depot: Depot,
    pub(crate) offers: Offers,
    pub(crate) fetcher: Fetcher,
    pub(crate) figures: BlobFigures,
}

fn offer_key(name: &str) -> Vec<u8> {
    format!("offer/{name}").into_bytes()
}

impl Sharing for Shared {
    fn depot(&self) -> Depot {
        self.depot.clone()
    }

    fn fetch(&self, hash: BlobHash, keep: Keep) -> watch::Receiver<Progress> {
        self.fetcher.start(hash, keep, Vec::new())
    }

    fn providers(&self, hash: BlobHash) -> BoxFuture<'_, Vec<Peer>> {
        Box::pin(async move {
            let mut all: BTreeSet<Peer> = self.fetcher.providers(hash).await.into_iter().collect();
            if self.depot.entry(hash).is_some() {
                all.insert(self.me);
            }
            all.into_iter().collect()
        })
    }

    fn len_of(&self, hash: BlobHash) -> BoxFuture<'_, Option<u64>> {
        Box::pin(self.fetcher.len_of(hash))
    }

    fn holders(&self, files: Vec<(BlobHash, u64)>) -> BoxFuture<'_, Vec<Holder>> {
        Box::pin(async move {
            let look =
                stream::iter(files).map(|(hash, len)| async move { (self.providers(hash).await, len) }).buffer_unordered(64).collect();
            let found: Vec<(Vec<Peer>, u64)> = tokio::time::timeout(HOLDERS_WAIT, look).await.unwrap_or_default();
            let mut held = std::collections::BTreeMap::<Peer, u64>::new();
            for (peers, len) in found {
                for peer in peers {
                    *held.entry(peer).or_default() += len;
                }
            }
            held.into_iter().map(|(peer, bytes)| Holder { peer, mib: u32::try_from(bytes >> 20).unwrap_or(u32::MAX) }).collect()
        })
    }

    fn own_offers(&self) -> Offers {
        self.offers.clone()
    }

    fn offers(&self, name: Option<String>, from: Option<Peer>) -> BoxFuture<'_, Vec<(Peer, Offer)>> {
        Box::pin(async move {
            let mut all: Vec<(Peer, Offer)> = Vec::new();
            if from.is_none_or(|p| p == self.me) {
                let own = self.offers.list().into_iter().filter(|o| name.as_deref().is_none_or(|n| n == o.name));
                all.extend(own.map(|o| (self.me, o)));
            }
            let peers = self.whom_to_ask(name.as_deref(), from).await;
            let lists = stream::iter(peers).map(|p| self.offers_of(p, name.clone())).buffer_unordered(ASKED_AT_ONCE);
            all.extend(lists.flat_map(stream::iter).collect::<Vec<_>>().await);
            all.sort_by(|a, b| (&a.1.name, &a.1.hash, a.0).cmp(&(&b.1.name, &b.1.hash, b.0)));
            all
        })
    }
}

impl Shared {
    /// One node; or for one name those that the index names and everybody connected; or everybody.
    async fn whom_to_ask(&self, name: Option<&str>, from: Option<Peer>) -> Vec<Peer> {
        if let Some(one) = from {
            return if one == self.me { Vec::new() } else { vec![one] };
        }
        let named = match name {
            Some(name) => self.net.find_providers(offer_key(name)).await,
            None => Vec::new(),
        };
        let all: BTreeSet<Peer> = named.into_iter().chain(self.net.lanes()).map(Peer).collect();
        all.into_iter().filter(|p| *p != self.me).collect()
    }

    async fn offers_of(&self, peer: Peer, name: Option<String>) -> Vec<(Peer, Offer)> {
        let asked = async {
            let source = self.fetcher.way(peer).await;
            bulk::ask_cbor::<Vec<Offer>>(&self.net, source, Ask::Offers(name.clone()), bulk::OFFERS_BYTES_MAX).await
        };
        match tokio::time::timeout(OFFERS_WAIT, asked).await {
            Ok(Ok(list)) => {
                let wanted = |o: &Offer| o.is_sane() && name.as_deref().is_none_or(|n| n == o.name);
                list.into_iter().take(OFFERS_MAX).filter(wanted).map(|o| (peer, o)).collect()
            }
            Ok(Err(why)) => {
                tracing::debug!(%peer, why, "a node did not tell its published skills");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }

    /// Announces in the index what is here, and lets go of what is not kept.
    pub(crate) async fn watch(self) {
        let mut announced: BTreeSet<Vec<u8>> = BTreeSet::new();
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        let changed = self.depot.changed();
        loop {
            self.figures.held(self.depot.sizes(), self.depot.damaged_count());
            let wanted = self.wanted();
            for gone in announced.difference(&wanted) {
                self.net.stop_provide(gone.clone()).await;
            }
            for new in wanted.difference(&announced) {
                self.net.provide(new.clone()).await;
            }
            announced = wanted;
            tokio::select! {
                () = changed.notified() => {}
                _ = sweep.tick() => {
                    let depot = self.depot.clone();
                    let swept = tokio::task::spawn_blocking(move || depot.sweep()).await;
                    if let Ok(n @ 1..) = swept {
                        tracing::info!(blobs = n, "blobs that nobody has pinned were let go");
                    }
                }
            }
        }
    }

    fn wanted(&self) -> BTreeSet<Vec<u8>> {
        let mut blobs = self.depot.list();
        blobs.sort_by_key(|(_, e)| std::cmp::Reverse((e.pinned, e.put_at)));
        let blobs = blobs.into_iter().take(ANNOUNCED_MAX).map(|(h, _)| blob_key(h));
        blobs.chain(self.offers.list().into_iter().map(|o| offer_key(&o.name))).collect()
    }

    /// Fetches an input of a task, keeping it in the cache.
    pub(crate) async fn input(&self, blob: Hash, holders: Vec<Peer>) -> Result<(), String> {
        self.fetcher.get(BlobHash(blob.0), Keep::default(), holders).await.map(drop)
    }
}
