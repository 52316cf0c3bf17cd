//! `noxctl template …`: one function per command.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use tonic::transport::Channel;

use super::{
    Context, connect, execution, file,
    inputs::{self, InputArgs, ParameterArgs},
    output::{Consent, Output, confirm, properties, talk},
    parse_label,
    run::{self, request_id},
    status::CliError,
    table::{Column, Table},
    text, workflow,
};
use crate::proto::v1::{
    CreateTemplateRequest, DeleteTemplateRequest, GetTemplateRequest, InstantiateTemplateRequest,
    InstantiateTemplateResponse, ListTemplatesRequest, ListTemplatesResponse, TaskTemplate, TemplateParameter,
    UpdateTemplateRequest, Workflow,
};

/// Store templates and make workflows of them.
#[derive(Debug, Subcommand)]
pub enum TemplateCommand {
    /// Store a template from a file.
    #[command(after_help = "Example:\n  noxctl template create -f code-review.yaml")]
    Create(FileArgs),
    /// Store a new version of a template; older ones stay as they are.
    Update(UpdateArgs),
    /// List templates and what they need, newest first.
    List(ListArgs),
    /// Show a template, its parameters and its tasks; `-o yaml` gives a file again.
    Show(ShowArgs),
    /// Fill in the parameters: show the tasks, store a workflow of them, or run it at once.
    #[command(after_help = "Examples:\n  noxctl template instantiate code-review --parameter repository=/srv/app\n  \
                      noxctl template instantiate release --parameters-file release.yaml --create --workflow-id release-1.2.3\n  \
                      noxctl template instantiate nightly-audit -p repository=/srv/app -p days=7 --execute --watch")]
    Instantiate(InstantiateArgs),
    /// Delete a template with all its versions; workflows that were made of it stay.
    Delete(DeleteArgs),
}

/// Where a template is.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// A template in YAML or JSON; `-` for standard input.
    #[arg(short, long)]
    file: PathBuf,
}

/// Of `update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Refuse if it was changed since this etag was read; the file's own `etag` does the same.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
}

/// Of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only with this text in id, name or description.
    #[arg(long, default_value = "", hide_default_value = true)]
    text: String,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

/// Of `show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The template.
    id: String,
    /// An older version.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    version: u64,
}

/// Of `instantiate`.
#[derive(Debug, Args)]
pub struct InstantiateArgs {
    /// The template.
    id: String,
    /// An older version.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    version: u64,
    #[command(flatten)]
    parameters: ParameterArgs,
    /// Store a workflow of it.
    #[arg(long)]
    create: bool,
    /// Store a workflow of it and start an execution.
    #[arg(long)]
    execute: bool,
    /// The id of that workflow; without it, noxd makes one.
    #[arg(long, default_value = "", hide_default_value = true)]
    workflow_id: String,
    #[command(flatten)]
    inputs: InputArgs,
    /// Added to the execution's labels; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label, requires = "execute")]
    label: Vec<(String, String)>,
    /// Wait for the end, or at most so long (`--wait=10m`); the exit code is the outcome.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "", conflicts_with = "watch", requires = "execute")]
    wait: Option<String>,
    /// Show its progress to the end; the exit code is the outcome.
    #[arg(long, requires = "execute")]
    watch: bool,
}

/// Of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The template.
    id: String,
    /// Refuse if it was changed since this etag was read.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

/// Does a `template` command; the exit code.
pub async fn run(command: TemplateCommand, context: &mut Context) -> Result<u8, CliError> {
    // A bad file is told before a daemon is sought.
    match command {
        TemplateCommand::Create(args) => {
            let template = Some(file::read_template(&args.file)?);
            let request = CreateTemplateRequest { template, validate_only: false, request_id: request_id() };
            let answer = connect::templates(context.channel().await?).create_template(request).await?.into_inner();
            stored(&answer.template.ok_or(CliError::Incomplete("the template"))?, &mut context.output)
        }
        TemplateCommand::Update(args) => {
            let template = file::read_template(&args.file.file)?;
            update(template, args.etag, context).await
        }
        TemplateCommand::List(args) => list(args, context).await,
        TemplateCommand::Show(args) => show(args, context).await,
        TemplateCommand::Instantiate(args) => instantiate(args, context).await,
        TemplateCommand::Delete(args) => delete(args, context).await,
    }
}

async fn update(mut template: TaskTemplate, etag: String, context: &mut Context) -> Result<u8, CliError> {
    if template.id.is_empty() {
        return Err(CliError::Usage("the file must have the `id` of the template to update".to_owned()));
    }
    let etag = if etag.is_empty() { std::mem::take(&mut template.etag) } else { etag };
    let request = UpdateTemplateRequest { template: Some(template), etag, request_id: request_id(), update_mask: None };
    let answer = connect::templates(context.channel().await?).update_template(request).await?.into_inner();
    stored(&answer.template.ok_or(CliError::Incomplete("the template"))?, &mut context.output)
}

fn stored(template: &TaskTemplate, output: &mut Output) -> Result<u8, CliError> {
    output.resource(template, || {
        format!(
            "{}  version {}  {} parameters  {} tasks\n",
            text::escape(&template.id),
            template.version,
            template.parameters.len(),
            template.tasks.len()
        )
    })?;
    Ok(0)
}

async fn list(args: ListArgs, context: &mut Context) -> Result<u8, CliError> {
    let mut client = connect::templates(context.channel().await?);
    let mut listed = ListTemplatesResponse::default();
    loop {
        let request = ListTemplatesRequest {
            page_size: execution::page_size(args.limit, listed.templates.len()),
            page_token: listed.next_page_token,
            text: args.text.clone(),
        };
        let page = client.list_templates(request).await?.into_inner();
        listed.templates.extend(page.templates);
        listed.next_page_token = page.next_page_token;
        if listed.next_page_token.is_empty() || execution::reached(args.limit, listed.templates.len()) {
            break;
        }
    }
    let width = context.output.width();
    context.output.resource(&listed, || templates_table(&listed.templates).render(width))?;
    execution::say_more(&listed.next_page_token);
    Ok(0)
}

fn templates_table(templates: &[TaskTemplate]) -> Table {
    let mut table = Table::new(&[
        Column::Whole("ID"),
        Column::Flexible("REQUIRES"),
        Column::Flexible("DESCRIPTION"),
        Column::Optional("VERSION"),
        Column::Optional("UPDATED"),
    ]);
    for template in templates {
        let required = template.parameters.iter().filter(|parameter| parameter.required);
        let about = if template.description.is_empty() { &template.name } else { &template.description };
        table.row(vec![
            template.id.clone(),
            required.map(|parameter| parameter.name.as_str()).collect::<Vec<_>>().join(", "),
            about.lines().next().unwrap_or_default().to_owned(),
            template.version.to_string(),
            execution::local(template.updated_at.as_ref()),
        ]);
    }
    table
}

async fn fetched(channel: Channel, id: &str, version: u64) -> Result<TaskTemplate, CliError> {
    let request = GetTemplateRequest { template_id: id.to_owned(), version };
    let answer = connect::templates(channel).get_template(request).await?.into_inner();
    answer.template.ok_or(CliError::Incomplete("the template"))
}

async fn show(args: ShowArgs, context: &mut Context) -> Result<u8, CliError> {
    let template = fetched(context.channel().await?, &args.id, args.version).await?;
    let width = context.output.width();
    context.output.resource(&template, || {
        let mut told = properties(&[
            ("id", template.id.clone()),
            ("name", template.name.clone()),
            ("description", template.description.clone()),
            ("version", template.version.to_string()),
            ("etag", template.etag.clone()),
            ("created", execution::local(template.created_at.as_ref())),
            ("created by", template.created_by.clone()),
            ("updated", execution::local(template.updated_at.as_ref())),
        ]);
        if !template.parameters.is_empty() {
            told += &format!("\n{}", parameters_table(&template.parameters).render(width));
        }
        told + "\n" + &tasks(&template.tasks).render(width)
    })?;
    Ok(0)
}

fn parameters_table(parameters: &[TemplateParameter]) -> Table {
    let mut table = Table::new(&[
        Column::Whole("PARAMETER"),
        Column::Whole("TYPE"),
        Column::Flexible("DEFAULT"),
        Column::Flexible("MATCHES"),
        Column::Flexible("DESCRIPTION"),
    ]);
    for parameter in parameters {
        let kind = parameter.parameter_type().as_str_name().trim_start_matches("PARAMETER_TYPE_");
        let default = match &parameter.default_value {
            _ if parameter.required => "(required)".to_owned(),
            // What cannot be written as JSON has no words here.
            Some(value) => super::output::canonical(value).map(|value| value.to_string()).unwrap_or_default(),
            None => String::new(),
        };
        table.row(vec![
            parameter.name.clone(),
            if kind == "UNSPECIFIED" { "STRING".to_owned() } else { kind.to_owned() },
            default,
            parameter.validation_regex.clone(),
            parameter.description.lines().next().unwrap_or_default().to_owned(),
        ]);
    }
    table
}

fn tasks(tasks: &[crate::proto::v1::Task]) -> Table {
    workflow::tasks_table(&Workflow { tasks: tasks.to_vec(), ..Workflow::default() })
}

async fn instantiate(args: InstantiateArgs, context: &mut Context) -> Result<u8, CliError> {
    if !args.execute && !args.inputs.is_empty() {
        return Err(CliError::Usage("inputs are of an execution: say --execute, or leave them out".to_owned()));
    }
    if !args.execute && !args.create && !args.workflow_id.is_empty() {
        return Err(CliError::Usage("--workflow-id is of a workflow: say --create or --execute".to_owned()));
    }
    let patience = match args.wait.as_deref() {
        None | Some("") => None,
        Some(wait) => Some(workflow::wait_bound(wait)?),
    };
    let channel = context.channel().await?;
    let template = match args.parameters.needs_declarations() || args.inputs.needs_declarations() {
        true => fetched(channel.clone(), &args.id, args.version).await?,
        false => TaskTemplate::default(),
    };
    let request = InstantiateTemplateRequest {
        parameters: inputs::message(args.parameters.read(&template.parameters)?)?,
        inputs: inputs::message(args.inputs.read(&template.inputs)?)?,
        template_id: args.id,
        version: args.version,
        create_workflow: args.create,
        execute: args.execute,
        workflow_id: args.workflow_id,
        labels: args.label.into_iter().collect(),
        wait: None,
        request_id: request_id(),
    };
    let answer = connect::templates(channel.clone()).instantiate_template(request).await?.into_inner();
    if let Some(started) = answer.execution.as_ref().filter(|_| args.watch || args.wait.is_some()) {
        if !args.watch {
            return execution::wait_to_end(channel, started, patience, context).await;
        }
        let titles = answer.workflow.as_ref().map(run::titles).unwrap_or_default();
        talk(&format!("execution {}", text::escape(&started.id)));
        return execution::watch_to_end(channel, started, titles, Some(0), context).await;
    }
    made(&answer, &mut context.output)
}

fn made(answer: &InstantiateTemplateResponse, output: &mut Output) -> Result<u8, CliError> {
    let width = output.width();
    output.resource(answer, || match (&answer.workflow, &answer.execution) {
        (_, Some(execution)) => format!("{}\n", text::escape(&execution.id)),
        (Some(stored), None) => workflow::line(stored),
        (None, None) => tasks(&answer.tasks).render(width),
    })?;
    Ok(0)
}

async fn delete(args: DeleteArgs, context: &mut Context) -> Result<u8, CliError> {
    confirm(&format!("Delete template {} with all its versions?", text::escape(&args.id)), Consent::from(args.yes))?;
    let told = format!("template {} is deleted; workflows that were made of it stay", text::escape(&args.id));
    let request = DeleteTemplateRequest { template_id: args.id, etag: args.etag, request_id: request_id() };
    connect::templates(context.channel().await?).delete_template(request).await?;
    talk(&told);
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(table: &Table) -> String {
        anstream::adapter::strip_str(&table.render(Some(80))).to_string()
    }

    #[test]
    fn at_80_columns_a_list_says_what_templates_need_and_are_for() {
        // S-TPL-1
        let parameter = |name: &str, required| TemplateParameter { name: name.into(), required, ..Default::default() };
        let template = TaskTemplate {
            id: "nightly-audit-of-everything".into(),
            description: "Looks through the repository every night and says what it found\nin detail".into(),
            version: 3,
            parameters: vec![parameter("repository", true), parameter("depth", false)],
            ..TaskTemplate::default()
        };
        let shown = plain(&templates_table(std::slice::from_ref(&template)));
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        for words in ["nightly-audit-of-everything", "repository", "Looks through"] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
        assert!(!shown.contains("depth") && !shown.contains("in detail"), "{shown}");
        let shown = plain(&parameters_table(&template.parameters));
        assert!(shown.contains("(required)") && shown.contains("STRING"), "{shown}");
    }
}
