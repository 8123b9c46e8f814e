//! What A2A 1.0 and 0.3 send; what we do not need is ignored, as both want it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Methods that the protocol has and we do not.
pub(super) const UNSUPPORTED: [&str; 17] = [
    "ListTasks",
    "SendStreamingMessage",
    "SubscribeToTask",
    "CreateTaskPushNotificationConfig",
    "SetTaskPushNotificationConfig",
    "GetTaskPushNotificationConfig",
    "ListTaskPushNotificationConfigs",
    "DeleteTaskPushNotificationConfig",
    "GetExtendedAgentCard",
    "tasks/list",
    "message/stream",
    "tasks/resubscribe",
    "tasks/pushNotificationConfig/set",
    "tasks/pushNotificationConfig/get",
    "tasks/pushNotificationConfig/list",
    "tasks/pushNotificationConfig/delete",
    "agent/getAuthenticatedExtendedCard",
];

/// Whose words an answer uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// 1.0: `TASK_STATE_COMPLETED`, parts without a kind.
    V1,
    /// 0.3: `completed`, parts with a kind.
    V03,
}

/// A JSON-RPC request.
#[derive(Debug, Deserialize)]
pub(super) struct Rpc {
    pub(super) jsonrpc: String,
    #[serde(default)]
    pub(super) id: Option<Value>,
    pub(super) method: String,
    #[serde(default)]
    pub(super) params: Value,
}

/// What `SendMessage` takes.
#[derive(Debug, Deserialize)]
pub(super) struct SendParams {
    pub(super) message: Message,
    #[serde(default)]
    pub(super) configuration: Option<Configuration>,
    #[serde(default)]
    pub(super) metadata: Option<Map<String, Value>>,
}

/// How `SendMessage` answers.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Configuration {
    /// 1.0: do not wait for the end.
    pub(super) return_immediately: Option<bool>,
    /// 0.3: wait for the end.
    pub(super) blocking: Option<bool>,
}

/// A message.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Message {
    #[serde(default)]
    pub(super) message_id: Option<String>,
    #[serde(default)]
    pub(super) context_id: Option<String>,
    #[serde(default)]
    pub(super) task_id: Option<String>,
    #[serde(default)]
    pub(super) role: Option<String>,
    pub(super) parts: Vec<Part>,
    #[serde(default)]
    pub(super) metadata: Option<Map<String, Value>>,
}

/// A part of a message.  1.0 tells parts apart by their field, 0.3 by `kind`, too.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Part {
    pub(super) text: Option<String>,
    pub(super) data: Option<Value>,
    pub(super) raw: Option<Value>,
    pub(super) url: Option<Value>,
    /// 0.3.
    pub(super) file: Option<Value>,
}

/// What `GetTask` and `CancelTask` take.
#[derive(Debug, Deserialize)]
pub(super) struct TaskParams {
    pub(super) id: String,
}

/// An error of JSON-RPC.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Fault {
    pub(super) code: i32,
    pub(super) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<Value>,
}

impl Fault {
    pub(super) fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(-32602, message)
    }
    pub(super) fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(-32600, message)
    }
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(-32603, message)
    }
    pub(super) fn not_found(id: &str) -> Self {
        Self::new(-32001, format!("no task has the id '{id}': a typing error, or it ended so long ago that it is forgotten"))
    }
}

impl SendParams {
    /// The sender wants to hear the end, if it comes soon.
    pub(super) fn waits(&self) -> bool {
        let c = self.configuration.as_ref();
        !c.and_then(|c| c.return_immediately).unwrap_or(false) && c.and_then(|c| c.blocking).unwrap_or(true)
    }
    /// The conversation that the sender named.
    pub(super) fn context(&self) -> Option<&str> {
        self.message.context_id.as_deref().filter(|c| !c.is_empty())
    }
    /// A text from the metadata of the message, or of the request.
    pub(super) fn meta(&self, key: &str) -> Option<&str> {
        let of = |m: &'_ Option<Map<String, Value>>| m.as_ref().and_then(|m| m.get(key)).map(|_| ());
        let place = if of(&self.message.metadata).is_some() { &self.message.metadata } else { &self.metadata };
        place.as_ref().and_then(|m| m.get(key)).and_then(Value::as_str).filter(|s| !s.is_empty())
    }
}
