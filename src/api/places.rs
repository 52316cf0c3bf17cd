//! The places for connections: how many there are, how many of them one peer has, and how long a peer waits for its next
//! one whose last was closed for what it did.
//!
//! What a connection may do is bounded by the transport and by [`frames`](super::frames), and whoever does more is closed.
//! That alone is little: who connects again at once has all that a connection may do once more, and again. So the next
//! ones are not listened to for a [`REST`]; those that are open already are not touched. Read first: [`Places::take`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::listen::Peer;

/// One peer (a user, an address) has at most this part of them: others find room.
const PART_OF_ONE_PEER: usize = 2;
/// How long a peer waits for its next connection.
const REST: Duration = Duration::from_secs(1);

/// All of them.
pub(super) struct Places {
    most: usize,
    peers: Mutex<HashMap<String, Connections>>,
}

/// Those of one peer, by its user or address.
#[derive(Default)]
struct Connections {
    open: usize,
    /// When the last of them was closed for what it did, within [`REST`].
    closed_at: Option<Instant>,
}

/// One place, given back when dropped.
pub(super) struct Place {
    of: Arc<Places>,
    peer: String,
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self { most, peers: Mutex::default() }
    }

    /// A place for a peer, if there is one.
    pub(super) fn take(this: &Arc<Self>, peer: &Peer) -> Option<Place> {
        let peer = match peer {
            Peer::Tcp(address) => format!("{:?}", address.map(|address| address.ip())),
            Peer::Unix(user) => format!("user {user:?}"),
        };
        let mut peers = this.peers();
        let all: usize = peers.values().map(|connections| connections.open).sum();
        let own = peers.get(&peer).map_or(0, |connections| connections.open);
        if all >= this.most || own >= this.most.div_ceil(PART_OF_ONE_PEER) {
            return None;
        }
        // Peers that are gone and have rested are forgotten.
        peers.retain(|_, connections| connections.open > 0 || connections.rest().is_some());
        peers.entry(peer.clone()).or_default().open += 1;
        Some(Place { of: Arc::clone(this), peer })
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<String, Connections>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    fn rest(&self) -> Option<Duration> {
        REST.checked_sub(self.closed_at?.elapsed()).filter(|rest| !rest.is_zero())
    }
}

impl Place {
    /// How long its connection is not to be listened to yet.
    pub(super) fn rest(&self) -> Duration {
        self.of.peers().get(&self.peer).and_then(Connections::rest).unwrap_or_default()
    }

    /// Its connection is closed for what it did.
    #[expect(clippy::disallowed_methods, reason = "a second from now, which nothing outlives")]
    pub(super) fn was_abused(&self) {
        self.of.peers().entry(self.peer.clone()).or_default().closed_at = Some(Instant::now());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.of.peers();
        if let Some(connections) = peers.get_mut(&self.peer) {
            connections.open = connections.open.saturating_sub(1);
            if connections.open == 0 && connections.rest().is_none() {
                peers.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_half_of_the_places_and_rests_when_one_was_abused_while_others_do_not() {
        let places = Arc::new(Places::new(4));
        let (one, other) = (Peer::Unix(Some(1)), Peer::Unix(Some(2)));
        let first = Places::take(&places, &one).unwrap();
        let second = Places::take(&places, &one).unwrap();
        assert!(Places::take(&places, &one).is_none(), "half of four");
        first.was_abused();
        drop(first);
        let again = Places::take(&places, &one).unwrap();
        assert!(again.rest() > Duration::ZERO && again.rest() <= REST);
        assert_eq!(Places::take(&places, &other).unwrap().rest(), Duration::ZERO);
        drop((second, again));
        assert_eq!(places.peers().len(), 1, "who rests is remembered, and nobody else");
    }
}
