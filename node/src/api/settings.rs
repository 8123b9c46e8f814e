//! Settings of the whole mesh.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
};
use clawmesh_protocol::face::{Command, Reply, SettingsView};

use super::{
    routes::{App, unexpected},
    types::{Done, NewSetting, Problem},
};

pub(super) async fn all(State(app): State<Arc<App>>) -> Result<Json<SettingsView>, Problem> {
    match app.call(Command::Settings).await? {
        Reply::Settings(s) => Ok(Json(s)),
        other => Err(unexpected(&other)),
    }
}

async fn change(app: &App, key: String, value: Option<String>, user: String) -> Result<Json<Done>, Problem> {
    match app.call(Command::ChangeSetting(key, value, user)).await? {
        Reply::Ok => Ok(Json(Done { ok: true })),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn set(State(app): State<Arc<App>>, Path(key): Path<String>, body: Body) -> Result<Json<Done>, Problem> {
    let new: NewSetting = app.json(body).await?;
    change(&app, key, Some(new.value), new.user).await
}

pub(super) async fn unset(State(app): State<Arc<App>>, Path(key): Path<String>) -> Result<Json<Done>, Problem> {
    change(&app, key, None, String::new()).await
}
