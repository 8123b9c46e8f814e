//! Signs what another node will carry for this one, and checks what was carried to it (E11).  The core knows no keys.

use clawmesh_protocol::{codec::Blob, relay::Relay};

use crate::net::{Identity, signed_by};

/// In front of everything that is signed here: no other use of a node's key signs a text that begins like this.
const DOMAIN: &[u8] = b"clawmesh 1 relay\0";

/// This node's key, in one mesh.
#[derive(Debug)]
pub(crate) struct Seal {
    identity: Identity,
    mesh: [u8; 32],
}

impl Seal {
    /// `mesh` is the mesh's id, which only members know: an envelope of another mesh is worth nothing in this one, also when
    /// its author is a member of both.
    pub(crate) fn new(identity: Identity, mesh: [u8; 32]) -> Self {
        Self { identity, mesh }
    }

    fn text(&self, r: &Relay) -> Vec<u8> {
        [DOMAIN, &self.mesh, &r.signed()].concat()
    }

    /// Signs; false if the key cannot, and then the envelope must not leave.
    pub(crate) fn sign(&self, r: &mut Relay) -> bool {
        let Some(sig) = self.identity.sign(&self.text(r)) else { return false };
        r.sig = Blob(sig);
        true
    }

    /// The author has signed exactly this, for this mesh.
    pub(crate) fn is_whole(&self, r: &Relay) -> bool {
        signed_by(&r.from.0, &self.text(r), &r.sig.0)
    }
}

#[cfg(test)]
mod tests {
    use clawmesh_protocol::ids::Peer;

    use super::*;

    #[test]
    fn only_the_author_of_this_mesh_signs_and_only_what_is_there() {
        let identity = Identity::generate();
        let (a, b) = (Peer(identity.peer()), Peer([7; 32]));
        let seal = Seal::new(identity.clone(), [1; 32]);
        let mut good = Relay { from: a, to: b, session: 1, n: 2, body: Blob(b"x".to_vec()), sig: Blob(vec![]), ext: Default::default() };
        assert!(!seal.is_whole(&good), "not signed");
        assert!(seal.sign(&mut good) && seal.is_whole(&good));
        let other = Seal::new(Identity::generate(), [1; 32]);
        assert!(other.is_whole(&good), "anybody of the mesh can check it");
        assert!(!Seal::new(identity, [2; 32]).is_whole(&good), "another mesh");
        let mut stolen = good.clone();
        assert!(other.sign(&mut stolen) && !other.is_whole(&stolen), "signed by somebody else");
        let changed: [fn(&mut Relay); 6] = [
            |r| r.from = Peer([0; 32]),
            |r| r.to = Peer([8; 32]),
            |r| r.session += 1,
            |r| r.n += 1,
            |r| r.body.0.push(0),
            |r| r.sig.0.truncate(10),
        ];
        for change in changed {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(!seal.is_whole(&bad), "{bad:?}");
        }
    }
}
