//! Questions to people: `noxctl execution approve` and `reject`, and the questions of an execution that is shown.
//!
//! [`Questions`] knows which tasks wait for an answer. Where a person is at the keyboard it takes the answers there;
//! elsewhere it says which command gives them. Who answers is the server's to see, and whether they may.

use std::{collections::VecDeque, io::IsTerminal as _, pin::Pin, thread};

use clap::Args;
use tokio::sync::mpsc;
use tonic::{Status, transport::Channel};

use super::{Context, connect, output::talk, progress::Happening, run::request_id, status::CliError, text};
use crate::proto::v1::ResolveApprovalRequest;

/// Of `approve` and `reject`.
#[derive(Debug, Args)]
pub struct AnswerArgs {
    /// The execution.
    execution: String,
    /// The task that waits for the answer.
    task: String,
    /// Kept with the answer; tasks after it can read it.
    #[arg(long, default_value = "", hide_default_value = true)]
    comment: String,
}

/// Answers a question; the exit code.
pub(super) async fn answer(args: AnswerArgs, approved: bool, context: &mut Context) -> Result<u8, CliError> {
    let told = told(&args.task, approved);
    let request = ResolveApprovalRequest {
        execution_id: args.execution,
        task_id: args.task,
        approved,
        comment: args.comment,
        request_id: request_id(),
    };
    let mut client = connect::executions(context.channel().await?);
    let answer = client.resolve_approval(request).await?.into_inner();
    let execution = answer.execution.ok_or(CliError::Incomplete("the execution"))?;
    context.output.resource(&execution, || format!("{told}\n"))?;
    Ok(0)
}

fn told(task: &str, approved: bool) -> String {
    format!("{} {}", if approved { "approved" } else { "rejected" }, text::escape(task))
}

/// Says how a question is answered.
pub(super) fn hint(execution: &str, task: &str) -> String {
    format!("answer with: noxctl execution approve {} {} (or reject)", text::escape(execution), text::escape(task))
}

/// Where answers come from while an execution is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Answers {
    /// The keyboard, where a person is at one; else as [`Elsewhere`](Self::Elsewhere).
    Keyboard,
    /// A command that the person is told.
    #[default]
    Elsewhere,
}

/// The questions of one execution that nobody has answered yet.
pub(super) struct Questions {
    channel: Channel,
    execution: String,
    /// The command that answers: `{task}` in it is replaced.
    hint: String,
    answers: Answers,
    open: VecDeque<String>,
    lines: Option<mpsc::Receiver<String>>,
    call: Option<Call>,
}

type Call = Pin<Box<dyn Future<Output = (String, bool, Result<(), Status>)> + Send>>;

/// Lines that were typed and not taken yet: a person types few.
const LINES: usize = 16;

impl Questions {
    pub(super) fn new(channel: Channel, execution: &str, hint: &str, answers: Answers) -> Self {
        Self {
            channel,
            execution: execution.to_owned(),
            hint: hint.to_owned(),
            answers,
            open: VecDeque::new(),
            lines: None,
            call: None,
        }
    }

    /// Takes note of what happened; what to tell the person, if something.
    pub(super) fn happened(&mut self, happening: &Happening) -> Option<String> {
        match happening {
            Happening::Asked { task, .. } => {
                self.open.push_back(task.clone());
                if self.answers == Answers::Keyboard && self.lines.is_none() {
                    self.lines = keyboard();
                }
                match self.lines {
                    Some(_) if self.open.len() == 1 => Some(asked(task)),
                    Some(_) => None,
                    None if self.hint.is_empty() => None,
                    None => Some(format!("answer with: {}", self.hint.replace("{task}", &text::escape(task)))),
                }
            }
            Happening::Answered { task, .. } => self.over(std::slice::from_ref(task)),
            Happening::Cancelled(tasks) => self.over(tasks),
            Happening::TaskFailed(failure) => self.over(std::slice::from_ref(&failure.task_id)),
            _ => None,
        }
    }

    /// Goes on with the next question, if the first of the open ones is over.
    fn over(&mut self, tasks: &[String]) -> Option<String> {
        let first = self.open.front().cloned();
        self.open.retain(|open| !tasks.contains(open));
        let next = self.open.front().filter(|next| self.lines.is_some() && Some(*next) != first.as_ref());
        next.map(|next| asked(next))
    }

    /// Something to tell the person, as soon as there is: a line was typed, or an answer was refused.
    pub(super) async fn word(&mut self) -> String {
        loop {
            if let Some(call) = &mut self.call {
                let (task, approved, result) = call.await;
                self.call = None;
                match result {
                    // Its event says so.
                    Ok(()) => continue,
                    Err(status) => {
                        let answer = told(&task, approved);
                        return format!("not {answer}: {}", CliError::from(status));
                    }
                }
            }
            let Some(lines) = &mut self.lines else { return std::future::pending().await };
            let Some(line) = lines.recv().await else {
                // Nobody types any more.
                self.lines = None;
                self.answers = Answers::Elsewhere;
                continue;
            };
            let Some(task) = self.open.front().cloned() else { continue };
            match line.trim().to_lowercase().as_str() {
                "y" | "yes" => self.call = Some(self.resolve(task, true)),
                "n" | "no" => self.call = Some(self.resolve(task, false)),
                "" => {}
                _ => return asked(&task),
            }
        }
    }

    fn resolve(&self, task: String, approved: bool) -> Call {
        let request = ResolveApprovalRequest {
            execution_id: self.execution.clone(),
            task_id: task.clone(),
            approved,
            comment: String::new(),
            request_id: request_id(),
        };
        let mut client = connect::executions(self.channel.clone());
        Box::pin(async move { (task, approved, client.resolve_approval(request).await.map(drop)) })
    }
}

fn asked(task: &str) -> String {
    format!("{}: type y to approve or n to reject, then Enter", text::escape(task))
}

/// The lines of the terminal at standard input, if there is one and this process may read it: a job in the background
/// would be stopped by the attempt.
fn keyboard() -> Option<mpsc::Receiver<String>> {
    let stdin = std::io::stdin();
    let in_front = rustix::termios::tcgetpgrp(&stdin).is_ok_and(|front| front == rustix::process::getpgrp());
    if !stdin.is_terminal() || !in_front {
        return None;
    }
    let (sender, lines) = mpsc::channel(LINES);
    // It waits in a read that nothing can break off, so nobody waits for it: it ends with the process.
    let reader = thread::Builder::new().name("keyboard".into()).spawn(move || {
        let mut line = String::new();
        while stdin.read_line(&mut line).is_ok_and(|read| read > 0) {
            if sender.blocking_send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    });
    match reader {
        Ok(_) => Some(lines),
        Err(error) => {
            talk(&format!("the keyboard cannot be read: {error}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_keyboard_the_command_is_told_that_answers() {
        let channel = tonic::transport::Endpoint::from_static("http://localhost").connect_lazy();
        let hint = "noxctl execution approve E {task}";
        let mut questions = Questions::new(channel, "E", hint, Answers::Elsewhere);
        let asked = |task: &str| Happening::Asked { task: task.into(), prompt: "Ship it?".into(), approvers: vec![] };
        let told = questions.happened(&asked("ship")).unwrap();
        assert_eq!(told, "answer with: noxctl execution approve E ship");
        let answered =
            Happening::Answered { task: "ship".into(), approved: true, by: "uid:0".into(), comment: String::new() };
        assert_eq!(questions.happened(&answered), None);
        assert!(questions.open.is_empty());
    }

    #[tokio::test]
    async fn at_the_keyboard_one_question_is_asked_after_the_other() {
        let channel = tonic::transport::Endpoint::from_static("http://localhost").connect_lazy();
        let mut questions = Questions::new(channel, "E", "", Answers::Keyboard);
        let (keys, lines) = mpsc::channel(4);
        questions.lines = Some(lines);
        let asked = |task: &str| Happening::Asked { task: task.into(), prompt: String::new(), approvers: vec![] };
        assert!(questions.happened(&asked("first")).unwrap().starts_with("first: type y"));
        assert_eq!(questions.happened(&asked("second")), None, "one at a time");
        keys.send("perhaps\n".into()).await.unwrap();
        assert!(questions.word().await.starts_with("first: type y"), "asked again");
        let next = questions.happened(&Happening::Cancelled(vec!["first".into()])).unwrap();
        assert!(next.starts_with("second: type y"), "{next}");
    }
}
