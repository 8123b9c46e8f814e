//! End to end tests: real processes of the built binary, each with its own home and its own ports.
//!
//! Nothing here knows the program from the inside.  A test says what a person or another program would do, and waits by
//! asking ([`wait_until`]), never by sleeping.  A test that fails prints what the nodes wrote.
//!
//! ```no_run
//! use clawmesh_tests::Mesh;
//!
//! let mesh = Mesh::start(3);
//! mesh[1].cli(["run", "--", "echo", "hello"]).ok().stdout_is("hello\n");
//! ```
//!
//! Rooms: `binary` finds the program, `node` is one process, `mesh` several of them, `cli` a command and what it said,
//! `tasks` what is asked again and again about tasks, `http` the API as another program sees it, `mcp` a client of its tools, `wait` patience,
//! `files` what tasks leave behind, `processes` signals and strays, `netns` machines made of network namespaces, `proxy` slow
//! lines between them, `disk` small disks and power cuts, `trial` a mesh under load while faults strike, `history` what
//! happened then and the judgement on it.
#![deny(unreachable_pub, missing_docs)]

mod binary;
mod cli;
#[cfg(target_os = "linux")]
mod disk;
mod files;
#[cfg(target_os = "linux")]
mod history;
mod http;
mod mcp;
mod mesh;
#[cfg(target_os = "linux")]
mod netns;
mod node;
mod processes;
#[cfg(target_os = "linux")]
mod proxy;
mod tasks;
#[cfg(target_os = "linux")]
mod trial;
mod wait;

pub use binary::{binary, repository};
pub use cli::{Cli, Running, Said};
#[cfg(target_os = "linux")]
pub use disk::{Mounted, PowerCutDisk, SmallDisk};
pub use files::{Gate, Log};
pub use http::{HttpAnswer, get_json, raw_exchange};
pub use mcp::Mcp;
pub use mesh::{Mesh, MeshBuilder};
#[cfg(target_os = "linux")]
pub use netns::{Lan, enter};
pub use node::{Node, NodeBuilder};
pub use processes::{end_strays, process_runs};
#[cfg(target_os = "linux")]
pub use proxy::SlowLines;
pub use serde_json::{Value, json};
pub use tasks::{Task, batch_of};
#[cfg(target_os = "linux")]
pub use trial::{Trial, setting};
pub use wait::{AGES, LONG, SHORT, holds_for, wait_until};
