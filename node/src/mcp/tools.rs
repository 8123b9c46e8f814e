//! How the tools are described: names, schemas, and hints by which clients decide what needs a person's word.

use std::sync::Arc;

use rmcp::{
    handler::server::common::{schema_for_input, schema_for_output},
    model::{JsonObject, Tool, ToolAnnotations},
    schemars::JsonSchema,
};
use serde_json::Value;

use super::{
    args,
    views::{NodeList, SkillList, StatusReport, TaskReport, Waited},
};

/// All tools, in the order in which they are most often needed.
pub(super) fn all() -> Vec<Tool> {
    let reads = || ToolAnnotations::new().read_only(true).destructive(false).idempotent(true).open_world(false);
    // A command can do anything where it runs, and a skill what its author wrote.
    let runs = || ToolAnnotations::new().read_only(false).destructive(true).idempotent(false).open_world(true);
    vec![
        tool::<args::Submit, TaskReport>(
            "submit",
            "Put a task into the mesh: a command, a skill with input, or a prompt for an agent on another machine. Answers with the task's id \
             at once, or with its result when it ends within wait_seconds. Long work goes on without you: call wait with the id.",
            runs(),
        ),
        tool::<args::Wait, Waited>(
            "wait",
            "Wait for tasks to end, at most 45 seconds a call, and bring what they wrote. Says 'call wait again' for those that go on.",
            reads(),
        ),
        tool::<args::Status, StatusReport>(
            "status",
            "The state of a task and why it waits or where it runs; without a task, the state of the mesh.",
            reads(),
        ),
        tool::<args::ResultOf, TaskReport>(
            "result",
            "What a task wrote and how it ended; of a running one, what it wrote so far. Long output is shown in parts: offset and max_bytes \
             choose which.",
            reads(),
        ),
        tool::<args::Cancel, TaskReport>(
            "cancel",
            "End a task, wherever it is. A running process is asked to end and then killed.",
            ToolAnnotations::new().read_only(false).destructive(true).idempotent(true).open_world(false),
        ),
        tool::<args::ListNodes, NodeList>(
            "list_nodes",
            "The machines of the mesh: whether they are there, how busy they are, their platform, labels and skills.",
            reads(),
        ),
        tool::<args::ListSkills, SkillList>(
            "list_skills",
            "What the mesh can do and where: all skills, or those that fit a query, a category or a tag.",
            reads(),
        ),
        tool::<args::RunSkill, TaskReport>(
            "run_skill",
            "Run a skill of the mesh by its name with input and answer with its result; when it takes longer than wait_seconds, with the \
             task's id for wait.",
            runs(),
        ),
    ]
}

fn tool<I: JsonSchema + 'static, O: JsonSchema + 'static>(name: &'static str, description: &'static str, hints: ToolAnnotations) -> Tool {
    // The types are ours and are objects; a test looks at each schema.
    let input = schema_for_input::<I>().unwrap_or_default();
    Tool::new(name, description, plain(&input)).with_raw_output_schema(schema_for_output::<O>()).with_annotations(hints)
}

/// Input schemas as models and their providers read them best: an argument that may be left out is left out, never null, and
/// Rust's names of integers are nobody's business.
fn plain(schema: &Arc<JsonObject>) -> Arc<JsonObject> {
    let mut value = Value::Object(schema.as_ref().clone());
    simplify(&mut value);
    match value {
        Value::Object(object) => Arc::new(object),
        _ => schema.clone(),
    }
}

fn simplify(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|t| t != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".into(), only);
                }
            }
            if object.get("format").is_some_and(|f| f.as_str().is_some_and(|f| f.starts_with("uint") || f == "double")) {
                object.remove("format");
            }
            if object.get("default").is_some_and(Value::is_null) {
                object.remove("default");
            }
            object.values_mut().for_each(simplify);
        }
        Value::Array(all) => all.iter_mut().for_each(simplify),
        _ => {}
    }
}
