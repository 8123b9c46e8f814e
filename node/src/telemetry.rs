//! The node's own log: to stderr, as much as `CLAWMESH_LOG` asks for (`info`, `debug`,
//! `clawmesh=debug,libp2p=warn` …; `clawmesh=info` and warnings of the rest when it is not set).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Begins to log.  A filter that can't be read is replaced by the default, and said so.
pub(crate) fn start() {
    let default = "warn,clawmesh=info,libp2p=error";
    let asked = std::env::var("CLAWMESH_LOG").ok();
    let (filter, wrong) = match asked.as_deref().map(EnvFilter::try_new) {
        Some(Ok(f)) => (f, false),
        Some(Err(_)) => (EnvFilter::new(default), true),
        None => (EnvFilter::new(default), false),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    if log.try_init().is_ok() && wrong {
        tracing::warn!("CLAWMESH_LOG can't be read as a filter and is ignored");
    }
}
