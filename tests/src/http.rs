//! The API as another program sees it; and bytes that no honest program sends.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// Longest wait for an answer: above the server's own longest.
pub(crate) const LIMIT: Duration = Duration::from_secs(100);

/// An answer of the API.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
    /// Its kind.
    pub content_type: String,
}

impl HttpAnswer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("the answer is not JSON: {e}: {self:?}"))
    }
}

/// One request with these headers.  Any status is an answer.
pub(crate) fn request(
    limit: Duration,
    method: &str,
    addr: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Result<HttpAnswer, String> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(limit)).proxy(None).build().into();
    let mut request = ureq::http::Request::builder().method(method).uri(format!("http://{addr}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = match body {
        Some(bytes) => agent.run(request.header("content-type", "application/json").body(bytes).map_err(|e| e.to_string())?),
        None => agent.run(request.body(()).map_err(|e| e.to_string())?),
    };
    let mut answer = answer.map_err(|e| e.to_string())?;
    let content_type = answer.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let status = answer.status().as_u16();
    let body = answer.body_mut().with_config().limit(256 << 20).read_to_string().map_err(|e| e.to_string())?;
    Ok(HttpAnswer { status, body, content_type })
}

/// A GET of another program's JSON, on this machine.
///
/// # Errors
/// No answer, or none of that kind.
pub fn get_json(addr: SocketAddr, path: &str) -> Result<Value, String> {
    let answer = request(LIMIT, "GET", addr, path, &[], None)?;
    serde_json::from_str(&answer.body).map_err(|e| format!("{path}: {}: {e}: {}", answer.status, answer.body))
}

/// Sends bytes as they are, and returns what came back until the other side closed or `patience` has passed.
///
/// # Errors
/// No connection.  A connection that the other side resets is an answer like any other.
pub fn raw_exchange(addr: SocketAddr, bytes: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    // The other side may close before it has read everything.
    drop(stream.write_all(bytes));
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(n) = stream.read(&mut piece) {
        if n == 0 {
            break;
        }
        all.extend_from_slice(piece.get(..n).unwrap_or_default());
    }
    Ok(all)
}
