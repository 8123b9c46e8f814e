//! Errors of the API: which HTTP status, which words, which next command.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use clawmesh_protocol::{face::Refusal, spec::BUILTINS};

use super::{backend::Gone, types::Problem};

/// Most names or ids offered as "did you mean".
const CANDIDATES_MAX: usize = 10;
/// Of the nearest names, so many.
const NEAREST_MAX: usize = 3;

impl Problem {
    /// A problem of the given kind.
    pub(crate) fn new(status: StatusCode, code: &str, title: &str, detail: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            status: status.as_u16(),
            title: title.into(),
            detail: detail.into(),
            next: String::new(),
            candidates: Vec::new(),
        }
    }
    /// Adds what to type next.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }
    /// The request itself is wrong.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", "the request is not valid", detail)
    }
    /// Something broke in this node.
    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the node could not do it", detail).next("clawmesh status")
    }
    /// The `Host` header names something else than this machine; `who` is what the page of another site wanted to talk to.
    pub(crate) fn foreign_host(who: &str) -> Self {
        let detail = format!("the Host header must name 127.0.0.1, localhost or [::1]: pages of other sites may not talk to this {who}");
        Self::new(StatusCode::FORBIDDEN, "forbidden_host", "this host name is not served", detail)
    }
    /// The bearer token is missing or wrong; goes with `WWW-Authenticate: Bearer`.
    pub(crate) fn no_token() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "the token is missing or wrong",
            "send 'Authorization: Bearer TOKEN' with the token in the file 'api.token' of the node's home",
        )
    }
    /// A bound on work at once is reached.
    pub(crate) fn busy(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many requests at once", detail)
    }
    /// No answer in time.
    pub(crate) fn late(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "no answer in time", detail).next("clawmesh status")
    }
}

impl From<Gone> for Problem {
    fn from(_: Gone) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the node is stopping", "this node is shutting down and takes no requests")
            .next("clawmesh up")
    }
}

impl From<Refusal> for Problem {
    fn from(r: Refusal) -> Self {
        match r {
            Refusal::Invalid { message } => Self::invalid(message),
            Refusal::UnknownSkill { name, known } => unknown_skill(&name, known),
            Refusal::NotFound { id } => Self::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "no such task",
                format!("no task has the id '{id}': a typing error, or it ended so long ago that it is forgotten"),
            )
            .next("clawmesh tasks ls"),
            Refusal::Ambiguous { id, candidates } => {
                let candidates: Vec<String> = candidates.iter().take(CANDIDATES_MAX).map(ToString::to_string).collect();
                let mut p = Self::new(
                    StatusCode::CONFLICT,
                    "ambiguous",
                    "several tasks have this prefix",
                    format!("'{id}' is the start of several task ids: {}; type more of it", candidates.join(", ")),
                );
                if let Some(first) = candidates.first() {
                    p.next = format!("clawmesh tasks show {first}");
                }
                p.candidates = candidates;
                p
            }
            Refusal::Joined { id, .. } => Self::internal(format!("BUG: the submit that joined {id} was shown as refused")),
            Refusal::Full { message } => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "full", "the mesh is full", message).next("clawmesh status")
            }
            Refusal::NoCoordinator { message } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_coordinator", "nobody coordinates at the moment", message)
                    .next("clawmesh status")
            }
        }
    }
}

fn unknown_skill(name: &str, known: Vec<String>) -> Problem {
    let candidates = nearest(name, known.iter().map(String::as_str).chain(BUILTINS));
    let hint = match candidates.as_slice() {
        [] => "no name comes near it".to_owned(),
        [one] => format!("the nearest name is '{one}'"),
        several => format!("the nearest names are {}", several.iter().map(|c| format!("'{c}'")).collect::<Vec<_>>().join(", ")),
    };
    let mut p = Problem::new(
        StatusCode::NOT_FOUND,
        "unknown_skill",
        "no such skill",
        format!("no node of the mesh ever offered a skill '{name}'; {hint}"),
    )
    .next("clawmesh skills");
    p.candidates = candidates;
    p
}

/// Up to three names that a person who typed `name` may have meant, the best first.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let wanted = name.to_lowercase();
    let mut scored: Vec<(f64, &str)> = known
        .map(|k| {
            let lower = k.to_lowercase();
            let score = strsim::normalized_damerau_levenshtein(&wanted, &lower);
            // Half a name typed is a good sign, however long the rest is.
            let part = wanted.len() >= 3 && (lower.contains(&wanted) || (lower.len() >= 3 && wanted.contains(&lower)));
            (if part { score.max(0.75) } else { score }, k)
        })
        .filter(|(score, _)| *score >= 0.5)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.dedup_by(|a, b| a.1 == b.1);
    scored.into_iter().take(NEAREST_MAX).map(|(_, k)| k.to_owned()).collect()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}
