//! Questions about the skills of the mesh.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, RawQuery, State},
    http::HeaderName,
    response::{IntoResponse, Response},
};
use clawmesh_protocol::{
    face::{Command, Reply, Resolved, SkillQuery},
    ids::Peer,
};

use super::{
    routes::{App, unexpected},
    types::Problem,
};

/// How many skills the question found, on all pages.
const TOTAL: HeaderName = HeaderName::from_static("x-total-count");

/// The pairs of a query string, in order; a name may come several times.
fn pairs(query: Option<&str>) -> impl Iterator<Item = (String, String)> + '_ {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned()
}

fn number(name: &str, value: &str) -> Result<usize, Problem> {
    value.parse().map_err(|_| Problem::invalid(format!("'{name}' must be a number that is not negative, not '{value}'")))
}

fn asked(query: Option<&str>) -> Result<SkillQuery, Problem> {
    let mut q = SkillQuery::default();
    for (name, value) in pairs(query) {
        match name.as_str() {
            "name" => q.name = Some(value),
            "tag" => q.tags.push(value),
            "category" => q.category = Some(value),
            "q" => q.text = Some(value),
            "limit" => q.limit = Some(number("limit", &value)?),
            "offset" => q.offset = number("offset", &value)?,
            other => {
                let known = "name, tag (several times), category, q, limit and offset";
                return Err(Problem::invalid(format!("'{other}' is no part of a question about skills: there are {known}")));
            }
        }
    }
    Ok(q)
}

pub(super) async fn list(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    match app.call(Command::Skills(asked(query.as_deref())?)).await? {
        Reply::Skills(total, skills) => Ok(([(TOTAL, total.to_string())], Json(skills)).into_response()),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn resolve(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Result<Json<Resolved>, Problem> {
    let names: Vec<String> = pairs(query.as_deref()).filter(|(n, _)| n == "name").map(|(_, v)| v).collect();
    if names.is_empty() {
        return Err(Problem::invalid("name the skills: /api/v1/skills/resolve?name=A&name=B"));
    }
    match app.call(Command::Resolve(names)).await? {
        Reply::Resolved(r) => Ok(Json(r)),
        other => Err(unexpected(&other)),
    }
}

/// By the DHT alone.
pub(super) async fn providers(State(app): State<Arc<App>>, Path(name): Path<String>) -> Json<Vec<Peer>> {
    Json(app.backend().providers(name).await)
}
