//! A small libp2p behaviour that opens and accepts plain streams of two protocols and hands them over with their connection's id.
//!
//! libp2p-stream loses inbound streams under load, and request-response costs five times the CPU of one long stream; so neither.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::channel::oneshot;
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{Endpoint, InboundUpgrade, UpgradeInfo, transport::PortUse, upgrade::ReadyUpgrade},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler,
        StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};

/// The hot path: one long-lived stream per connection.
pub(super) const CTL: StreamProtocol = StreamProtocol::new("/mesh/ctl/1");
/// One request and one long answer per stream.
pub(super) const BULK: StreamProtocol = StreamProtocol::new("/mesh/bulk/1");

/// Gets the stream, or why there is none.
pub(super) type OpenTx = oneshot::Sender<Result<Stream, String>>;

/// What happened to a stream.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all events are streams, and none is kept")]
pub(super) enum Event {
    /// A stream is ready: one that the other side opened, or a lane of ours.
    Stream { peer: PeerId, conn: ConnectionId, protocol: StreamProtocol, stream: Stream },
    /// A lane of ours could not be opened.
    Failed { conn: ConnectionId, error: String },
}

/// Order to a connection: open a stream. Without `tx` the result comes as an [`Event`].
#[derive(Debug)]
pub(super) struct Open {
    protocol: StreamProtocol,
    tx: Option<OpenTx>,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Behaviour {
    /// Bounded by the streams that connections may have (yamux) times connections; drained at each poll.
    queue: VecDeque<ToSwarm<Event, Open>>,
    waker: Option<Waker>,
}

impl Behaviour {
    /// Opens the lane of a connection; an [`Event`] follows.
    pub(super) fn open_lane(&mut self, peer: PeerId, conn: ConnectionId) {
        self.order(peer, conn, Open { protocol: CTL, tx: None });
    }

    /// Opens a bulk stream on a connection; `tx` is dropped if the connection is gone.
    pub(super) fn open_bulk(&mut self, peer: PeerId, conn: ConnectionId, tx: OpenTx) {
        self.order(peer, conn, Open { protocol: BULK, tx: Some(tx) });
    }

    fn order(&mut self, peer_id: PeerId, conn: ConnectionId, event: Open) {
        self.queue.push_back(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(conn), event });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, peer: PeerId, conn: ConnectionId, event: THandlerOutEvent<Self>) {
        self.queue.push_back(ToSwarm::GenerateEvent(match event {
            Out::Stream(protocol, stream) => Event::Stream { peer, conn, protocol, stream },
            Out::Failed(error) => Event::Failed { conn, error },
        }));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(event) = self.queue.pop_front() {
            return Poll::Ready(event);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Accepts both protocols on one listener (`ReadyUpgrade` takes only one name).
#[derive(Clone, Debug)]
pub(super) struct Accept;

impl UpgradeInfo for Accept {
    type Info = StreamProtocol;
    type InfoIter = [StreamProtocol; 2];

    fn protocol_info(&self) -> Self::InfoIter {
        [CTL, BULK]
    }
}

impl InboundUpgrade<Stream> for Accept {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

/// From a connection to the behaviour.
#[derive(Debug)]
pub(super) enum Out {
    /// A stream is ready.
    Stream(StreamProtocol, Stream),
    /// A lane could not be opened.
    Failed(String),
}

/// The part that lives with one connection.
#[derive(Default)]
pub(super) struct Handler {
    want: VecDeque<Open>,
    out: VecDeque<Out>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Out;
    type InboundProtocol = Accept;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Open;

    fn listen_protocol(&self) -> SubstreamProtocol<Accept> {
        SubstreamProtocol::new(Accept, ())
    }

    fn connection_keep_alive(&self) -> bool {
        // The swarm loop closes what is not needed; idle time-outs must not.
        true
    }

    fn on_behaviour_event(&mut self, open: Open) {
        self.want.push_back(open);
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Open, Out>> {
        if let Some(out) = self.out.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(out));
        }
        let Some(open) = self.want.pop_front() else {
            return Poll::Pending;
        };
        let upgrade = ReadyUpgrade::new(open.protocol.clone());
        let protocol = SubstreamProtocol::new(upgrade, open).with_timeout(OPEN_TIMEOUT);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Accept, ReadyUpgrade<StreamProtocol>, (), Open>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: (stream, protocol), .. }) => {
                self.out.push_back(Out::Stream(protocol, stream));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info }) => match info.tx {
                // Who asked may have left meanwhile; the stream is closed by dropping it.
                Some(tx) => drop(tx.send(Ok(stream))),
                None => self.out.push_back(Out::Stream(info.protocol, stream)),
            },
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let error = describe(error);
                match info.tx {
                    Some(tx) => drop(tx.send(Err(error))),
                    None => self.out.push_back(Out::Failed(error)),
                }
            }
            _ => {}
        }
    }
}

fn describe(error: StreamUpgradeError<Infallible>) -> String {
    match error {
        StreamUpgradeError::Timeout => "no answer in time".into(),
        StreamUpgradeError::NegotiationFailed => "the other side does not speak this protocol".into(),
        StreamUpgradeError::Io(e) => e.to_string(),
        StreamUpgradeError::Apply(never) => match never {},
    }
}

/// A member answers in milliseconds; one that does not is stuck and the lane's silence says so, too.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
