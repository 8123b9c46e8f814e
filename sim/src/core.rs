//! The core under test, in one place.

pub(crate) use clawmesh_protocol::mesh::{Mesh, Probe};
