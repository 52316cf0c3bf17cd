//! Templates as rows.

use std::sync::Arc;

use prost::Message as _;

use super::{LayoutError, definition, rows, unreadable};
use crate::machine::{
    ids::{Actor, TemplateId, Timestamp, WorkflowId},
    template::{TemplateOrigin, TemplateRecord, TemplateSpec},
};

/// A template's head and its newest version as rows.
pub fn encode_template(record: &TemplateRecord) -> (Vec<u8>, Vec<u8>) {
    let head = rows::TemplateHead {
        version: record.version,
        created_at: record.created_at.0,
        updated_at: record.updated_at.0,
        created_by: record.created_by.as_str().into(),
        deleted: record.deleted,
    };
    let version = rows::TemplateVersion {
        body: Some(definition::encode(&record.spec.body)),
        parameters: record.spec.parameters.iter().map(definition::encode_input).collect(),
    };
    (head.encode_to_vec(), version.encode_to_vec())
}

/// What a template's head says.
#[derive(Clone, Debug, PartialEq)]
pub struct TemplateHead {
    row: rows::TemplateHead,
}

impl TemplateHead {
    /// Reads a head.
    ///
    /// # Errors
    /// Where the bytes are no head.
    pub fn decode(id: &TemplateId, bytes: &[u8]) -> Result<Self, LayoutError> {
        let row = rows::TemplateHead::decode(bytes).map_err(|error| unreadable(format!("template `{id}`"), error))?;
        Ok(Self { row })
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.row.version
    }

    /// The whole record, with what its version says.
    pub fn record(&self, spec: Arc<TemplateSpec>) -> TemplateRecord {
        TemplateRecord {
            version: self.row.version,
            created_at: Timestamp(self.row.created_at),
            updated_at: Timestamp(self.row.updated_at),
            created_by: Actor::from_text(&self.row.created_by),
            deleted: self.row.deleted,
            spec,
        }
    }
}

/// A version of a template as its author wrote it.
///
/// # Errors
/// Where the bytes are no template.
pub fn decode_template(id: &TemplateId, bytes: &[u8]) -> Result<TemplateSpec, LayoutError> {
    let what = || format!("a version of template `{id}`");
    let row = rows::TemplateVersion::decode(bytes).map_err(|error| unreadable(what(), error))?;
    let body = row.body.ok_or_else(|| unreadable(what(), "it has no body"))?;
    let name = WorkflowId::parse(id.as_str()).map_err(|why| unreadable(what(), why))?;
    Ok(TemplateSpec {
        id: id.clone(),
        parameters: row.parameters.into_iter().map(definition::decode_input).collect(),
        body: definition::decode_row(&name, body),
    })
}

pub(super) fn encode_origin(origin: &TemplateOrigin) -> rows::TemplateOrigin {
    rows::TemplateOrigin {
        template: origin.template.as_str().into(),
        version: origin.version,
        parameters: origin.parameters.to_string(),
    }
}

pub(super) fn decode_origin(row: &rows::TemplateOrigin) -> Result<TemplateOrigin, LayoutError> {
    let template = TemplateId::parse(&row.template).map_err(|why| unreadable("what a workflow was made of", why))?;
    Ok(TemplateOrigin { template, version: row.version, parameters: row.parameters.as_str().into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::workflow::{Action, InputSpec, TaskSpec, WorkflowSpec};

    #[test]
    fn a_template_reads_back_as_it_was_stored() {
        // S-TPL-1
        let id = TemplateId::parse("t").expect("an id");
        let noop = Some(Action::Noop { duration_micros: 3 });
        let spec = TemplateSpec {
            id: id.clone(),
            parameters: vec![InputSpec { name: "p".into(), required: true, ..InputSpec::default() }],
            body: WorkflowSpec {
                name: "name".into(),
                tasks: vec![TaskSpec { id: "{{p}}".into(), action: noop, ..TaskSpec::default() }],
                ..WorkflowSpec::named(WorkflowId::parse("t").expect("an id"))
            },
        };
        let record = TemplateRecord {
            version: 7,
            created_at: Timestamp(1),
            updated_at: Timestamp(2),
            created_by: Actor::from_text("uid:3"),
            deleted: true,
            spec: spec.into(),
        };
        let (head, version) = encode_template(&record);
        let read = Arc::new(decode_template(&id, &version).expect("a version"));
        assert_eq!(TemplateHead::decode(&id, &head).expect("a head").record(read), record);
        assert!(decode_template(&id, &[]).is_err() && decode_template(&id, b"\xff nonsense").is_err());
        let origin = TemplateOrigin { template: id, version: 7, parameters: "{\"p\":\"x\"}".into() };
        assert_eq!(decode_origin(&encode_origin(&origin)).expect("an origin"), origin);
    }
}
