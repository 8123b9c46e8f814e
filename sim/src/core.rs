//! The core under test, in one place.

pub(crate) use crate::standin::{Mesh, Probe};
