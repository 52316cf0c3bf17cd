//! Templates in the simulation: they are stored, changed, deleted and made into workflows that run at once.

use std::{collections::BTreeMap, sync::Arc};

use noxd::machine::{
    ids::{TemplateId, WorkflowId},
    message::{Command, Inputs, Start, WorkflowChange},
    template::{TemplateOrigin, TemplateRecord, TemplateSpec},
    workflow::{Action, InputSpec, TaskSpec, WorkflowSpec},
};

use crate::{
    ledger::Ledger,
    light::Engine,
    plan::{Features, Plan},
    world::{World, person},
};

impl<E: Engine> World<E> {
    /// Somebody stores, changes or deletes a template.
    pub fn template(&mut self) {
        self.ledger.coverage.reached("template");
        let id = TemplateId::parse(self.chance.pick(&["review", "audit"])).expect("a name");
        let etag = self.chance.pick(&[None, Some("v1".to_string())]);
        let noop = Some(Action::Noop { duration_micros: 0 });
        let task = TaskSpec { id: "{{name}}".into(), action: noop, ..TaskSpec::default() };
        let body = WorkflowSpec { tasks: vec![task], ..WorkflowSpec::named(name(id.as_str())) };
        let parameters = vec![InputSpec { name: "name".into(), ..InputSpec::default() }];
        let spec = Arc::new(TemplateSpec { id: id.clone(), parameters, body });
        let command = match self.chance.below(4) {
            0 => Command::DeleteTemplate { template: id, etag },
            1 => Command::UpdateTemplate { spec, etag },
            _ => Command::CreateTemplate { spec },
        };
        self.tell(vec![(command, person())]);
    }

    /// Somebody makes a workflow of a template, and most often runs it in the same step.
    pub fn instantiate(&mut self) {
        self.ledger.coverage.reached("instance of a template");
        let workflow = if self.chance.one_in(5) { name("one") } else { name(&format!("made-{}", self.new_id().0)) };
        let plan = Plan::random(&workflow, Features::All, &mut self.chance);
        let definition = Arc::clone(&plan.definition);
        let known = self.ledger.workflows.get(&workflow).copied();
        if known.is_none_or(|(_, deleted)| deleted) {
            self.ledger.plans.insert((workflow, known.map_or(0, |(version, _)| version) + 1), plan);
        }
        let template = TemplateId::parse("review").expect("a name");
        let origin = Arc::new(TemplateOrigin { template, version: 1, parameters: "{}".into() });
        let mut given = serde_json::Map::new();
        if self.chance.one_in(4) {
            given.insert("go".into(), "nonsense".into());
        }
        let start =
            Start { execution: self.new_id(), labels: BTreeMap::new(), inputs: Inputs(given.into()), retry: None };
        let start = (!self.chance.one_in(3)).then_some(start);
        self.tell(vec![(Command::InstantiateTemplate { definition, origin, start }, person())]);
    }
}

impl Ledger {
    /// What a command about templates must be answered.
    pub fn expected_of_template(&self, id: &TemplateId, etag: Option<&Option<String>>) -> &'static str {
        let stored = self.templates.get(id).filter(|(_, deleted)| !deleted);
        match (stored, etag) {
            (Some(_), None) => "TemplateExists",
            (None, None) => "Ok",
            (None, Some(_)) => "TemplateNotFound",
            (Some((version, _)), Some(Some(etag))) if *etag != format!("v{version}") => "TemplateEtagMismatch",
            (Some(_), Some(_)) => "Ok",
        }
    }

    /// Whether a change of a template is allowed now: S-TPL-1.
    pub fn follow_template(
        &mut self,
        id: &TemplateId,
        change: WorkflowChange,
        version: u64,
        record: Option<&Arc<TemplateRecord>>,
    ) {
        let before = self.templates.get(id).copied();
        let allowed = match change {
            WorkflowChange::Created => before.is_none_or(|(_, deleted)| deleted),
            WorkflowChange::Updated | WorkflowChange::Deleted => before.is_some_and(|(_, deleted)| !deleted),
        };
        let is_deleted = change == WorkflowChange::Deleted;
        let next = before.map_or(0, |(version, _)| version) + u64::from(!is_deleted);
        self.check(allowed && version == next, "S-TPL-1: a template cannot be changed so now");
        let told = record.is_none_or(|record| (record.version, record.deleted) == (version, is_deleted));
        self.check(told, "S-TPL-1: the record of a template is not what its event says");
        self.templates.insert(id.clone(), (version, is_deleted));
    }
}

fn name(text: &str) -> WorkflowId {
    WorkflowId::parse(text).expect("a name")
}
