//! The agent card.  It needs no token, as the protocol wants it: it tells names and descriptions of skills to programs of this
//! machine, and nothing else.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use clawmesh_protocol::face::{Command, Reply, SkillView};
use serde_json::{Value, json};

use super::super::{
    routes::{App, unexpected},
    types::Problem,
};

/// Skills on one card.
const SKILLS_MAX: usize = 1_000;

/// `GET /.well-known/agent-card.json`.
pub(in crate::api) async fn card(State(app): State<Arc<App>>) -> Result<Json<Value>, Problem> {
    let skills = match app.call(Command::Skills(Default::default())).await? {
        Reply::Skills(_, skills) => skills,
        other => return Err(unexpected(&other)),
    };
    let info = app.backend().info();
    // Several different skills of one name are one here: which one runs is the mesh's business.
    let mut by_name: BTreeMap<&str, &SkillView> = BTreeMap::new();
    for skill in &skills {
        by_name.entry(&skill.name).or_insert(skill);
    }
    let shown: Vec<Value> = by_name.values().take(SKILLS_MAX).map(|s| skill(s)).collect();
    Ok(Json(json!({
        "name": format!("clawmesh {}", info.mesh),
        "description": "A mesh of machines. A message names a skill (metadata.skillId, or text that begins with $NAME) and brings its input as \
                        data or text; text without a skill is a prompt for an agent of the mesh.",
        "version": info.version,
        "supportedInterfaces": [{ "url": format!("http://{}/a2a/v1", info.api), "protocolBinding": "JSONRPC", "protocolVersion": "1.0" }],
        "capabilities": { "streaming": false, "pushNotifications": false },
        "defaultInputModes": ["application/json", "text/plain"],
        "defaultOutputModes": ["application/json", "text/plain"],
        "securitySchemes": { "bearer": { "httpAuthSecurityScheme": {
            "scheme": "Bearer", "description": "The token in the file 'api.token' of the node's home.",
        } } },
        "securityRequirements": [{ "schemes": { "bearer": { "list": [] } } }],
        "skills": shown,
    })))
}

fn skill(s: &SkillView) -> Value {
    let mut tags = s.tags.clone();
    tags.extend(Some(s.category.clone()).filter(|c| !c.is_empty() && !s.tags.contains(c)));
    if tags.is_empty() {
        // The protocol wants one at least.
        tags.push("clawmesh".into());
    }
    let description = if s.runnable { s.description.clone() } else { format!("{} (by an agent)", s.description) };
    json!({ "id": s.name, "name": s.name, "description": description, "tags": tags })
}
