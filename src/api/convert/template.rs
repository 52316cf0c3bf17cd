//! Templates: what a client wrote to a checked template, or to every fault at once; and back. Their bodies are
//! definitions, and are taken apart as such.

use super::{definition, execution::inputs_of, timestamp};
use crate::{
    machine::{
        ids::TemplateId,
        template::{TemplateOrigin, TemplateRecord, TemplateSpec},
        workflow::{InputSpec, Violation},
    },
    proto::v1,
};

/// A template that can be stored. An empty id becomes a UUIDv7.
///
/// # Errors
/// Every fault at once; those that a client can mend before those that only another build can.
pub fn parse(template: v1::TaskTemplate) -> Result<TemplateSpec, Vec<Violation>> {
    let (parameters, malformed) = definition::parameters(template.parameters);
    let body = v1::Workflow {
        id: template.id,
        name: template.name,
        description: template.description,
        tasks: template.tasks,
        metadata: template.metadata,
        labels: template.labels,
        concurrency_limits: template.concurrency_limits,
        failure_policy: template.failure_policy,
        on_failure: template.on_failure,
        finally: template.finally,
        execution_timeout: template.execution_timeout,
        inputs: template.inputs,
        ..v1::Workflow::default()
    };
    let parsed = definition::parse(body);
    let mut faults = [malformed, parsed.malformed].concat();
    let Some(body) = parsed.spec else { return Err(definition::in_order(faults, parsed.unsupported)) };
    let id = TemplateId::parse(body.id.as_str()).expect("ids of workflows and templates have one form");
    let spec = TemplateSpec { id, parameters, body };
    faults.extend(spec.check().err().unwrap_or_default());
    if faults.is_empty() && parsed.unsupported.is_empty() {
        return Ok(spec);
    }
    Err(definition::in_order(faults, parsed.unsupported))
}

/// A stored template as clients see it.
pub fn render(record: &TemplateRecord) -> v1::TaskTemplate {
    render_version(record, record.version, &record.spec)
}

/// An older version of it: what the server says is of the template.
pub fn render_version(record: &TemplateRecord, version: u64, spec: &TemplateSpec) -> v1::TaskTemplate {
    let body = definition::render_spec(&spec.body);
    v1::TaskTemplate {
        id: spec.id.as_str().into(),
        name: body.name,
        description: body.description,
        version,
        parameters: spec.parameters.iter().map(parameter).collect(),
        tasks: body.tasks,
        created_at: Some(timestamp(record.created_at)),
        created_by: record.created_by.as_str().into(),
        updated_at: Some(timestamp(record.updated_at)),
        etag: format!("v{version}"),
        metadata: body.metadata,
        labels: body.labels,
        concurrency_limits: body.concurrency_limits,
        failure_policy: body.failure_policy,
        on_failure: body.on_failure,
        finally: body.finally,
        execution_timeout: body.execution_timeout,
        inputs: body.inputs,
    }
}

/// The stored template with some fields of the given one; `Err` has a path that names no field of a client's.
pub fn masked(stored: v1::TaskTemplate, given: v1::TaskTemplate, paths: &[String]) -> Result<v1::TaskTemplate, String> {
    let mut masked = stored;
    for path in paths {
        match path.as_str() {
            "name" => masked.name.clone_from(&given.name),
            "description" => masked.description.clone_from(&given.description),
            "parameters" => masked.parameters.clone_from(&given.parameters),
            "tasks" => masked.tasks.clone_from(&given.tasks),
            "metadata" => masked.metadata.clone_from(&given.metadata),
            "labels" => masked.labels.clone_from(&given.labels),
            "concurrency_limits" => masked.concurrency_limits.clone_from(&given.concurrency_limits),
            "failure_policy" => masked.failure_policy = given.failure_policy,
            "on_failure" => masked.on_failure.clone_from(&given.on_failure),
            "finally" => masked.finally.clone_from(&given.finally),
            "execution_timeout" => masked.execution_timeout.clone_from(&given.execution_timeout),
            "inputs" => masked.inputs.clone_from(&given.inputs),
            other => {
                return Err(format!(
                    "`{other}` is no field that an update can set; use name, description, parameters, tasks, metadata, \
                     labels, concurrency_limits, failure_policy, on_failure, finally, execution_timeout or inputs"
                ));
            }
        }
    }
    Ok(masked)
}

fn parameter(parameter: &InputSpec) -> v1::TemplateParameter {
    let input = definition::input(parameter);
    v1::TemplateParameter {
        name: input.name,
        parameter_type: input.parameter_type,
        required: input.required,
        default_value: input.default_value,
        description: input.description,
        validation_regex: input.validation_regex,
    }
}

/// What a workflow was made of.
pub fn origin(origin: &TemplateOrigin) -> v1::TemplateOrigin {
    v1::TemplateOrigin {
        template_id: origin.template.as_str().into(),
        version: origin.version,
        parameters: inputs_of(&origin.parameters),
    }
}
