//! Streams of events: from the engine's watch to the client, with bookmarks while nothing happens, and with how far an
//! execution is where that is asked for.

use std::time::Duration;

use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    Api, EventStream,
    convert::{self, event::EventRenderer},
    status,
};
use crate::{
    engine::{recent::SMALL_TASKS, watch::Watch},
    machine::ids::{ExecutionId, Revision},
    proto::v1,
};

/// Messages on their way to one client; who reads slower is served from the store later.
const WINDOW: usize = 64;
/// How long a stream is silent before it says where it is.
const BOOKMARK_AFTER: Duration = Duration::from_secs(10);

/// How often a stream looks how far its execution is; one with many tasks, of which that costs more, less often.
const PROGRESS_EVERY: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];

/// The stream of an execution, with how far it is.
pub(super) fn with_progress(
    api: &Api,
    watch: Watch,
    execution: ExecutionId,
    tasks: u32,
) -> EventStream<v1::WatchExecutionResponse> {
    let (messages, out) = mpsc::channel(WINDOW);
    let of = api.clone();
    let every = PROGRESS_EVERY[usize::from(tasks as usize > SMALL_TASKS)];
    api.streams.spawn(until_over(api.clone(), messages.clone(), async move {
        follow_with_progress(&of, watch, execution, every, &messages).await;
    }));
    Box::pin(ReceiverStream::new(out))
}

/// A stream of a watch. `shape` makes the RPC's message.
pub(super) fn events<M: Send + 'static>(
    api: &Api,
    watch: Watch,
    shape: impl Fn(Revision, Option<v1::Event>) -> M + Send + 'static,
) -> EventStream<M> {
    let (messages, out) = mpsc::channel(WINDOW);
    let renderer = EventRenderer::new(api.engine.reads().clone());
    api.streams.spawn(until_over(api.clone(), messages.clone(), async move {
        follow(watch, renderer, &messages, shape).await;
    }));
    Box::pin(ReceiverStream::new(out))
}

/// Follows until there is no more, nobody reads any more, or noxd shuts down.
async fn until_over<M>(api: Api, messages: mpsc::Sender<Result<M, Status>>, following: impl Future<Output = ()>) {
    tokio::select! {
        () = following => {}
        // Whoever reads no more wants nothing more.
        () = messages.closed() => {}
        () = api.stop.cancelled() => {
            let bye = status::status(status::Reason::Draining, "noxd is shutting down; resume from the last revision");
            // A client that does not read is not waited for.
            let _ = messages.try_send(Err(bye));
        }
    }
}

async fn follow<M>(
    mut watch: Watch,
    mut renderer: EventRenderer,
    messages: &mpsc::Sender<Result<M, Status>>,
    shape: impl Fn(Revision, Option<v1::Event>) -> M,
) {
    loop {
        let message = match tokio::time::timeout(BOOKMARK_AFTER, watch.next()).await {
            Err(_silent) => Ok(shape(watch.cursor(), None)),
            Ok(Ok(None)) => return,
            Ok(Ok(Some(recorded))) => match renderer.render(&recorded) {
                Ok(event) => Ok(shape(recorded.revision, Some(event))),
                Err(error) => Err(status::unreadable(&error)),
            },
            Ok(Err(error)) => Err(status::unreadable(&error)),
        };
        let failed = message.is_err();
        if messages.send(message).await.is_err() || failed {
            return;
        }
    }
}

async fn follow_with_progress(
    api: &Api,
    mut watch: Watch,
    execution: ExecutionId,
    every: Duration,
    messages: &mpsc::Sender<Result<v1::WatchExecutionResponse, Status>>,
) {
    let mut renderer = EventRenderer::new(api.engine.reads().clone());
    let mut looks = tokio::time::interval(every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = (None, 0);
    loop {
        let message = tokio::select! {
            // What has happened comes first.
            biased;
            next = watch.next() => match next {
                Ok(None) => return,
                Ok(Some(recorded)) => renderer.render(&recorded).map_err(|error| status::unreadable(&error)).map(|event| {
                    v1::WatchExecutionResponse { revision: recorded.revision, event: Some(event), progress: None }
                }),
                Err(error) => Err(status::unreadable(&error)),
            },
            _ = looks.tick() => {
                let read = api.read(move |reads| {
                    let found = reads.execution(execution)?.ok_or_else(|| status::no_execution(execution))?;
                    Ok(convert::execution::progress(&found, crate::engine::clock::wall_now()))
                });
                match read.await {
                    // What has not changed is told now and then all the same: it says where the stream is.
                    Ok(progress) if told.0.as_ref() == Some(&progress) && every * told.1 < BOOKMARK_AFTER => {
                        told.1 += 1;
                        continue;
                    }
                    Ok(progress) => {
                        told = (Some(progress), 0);
                        let revision = watch.cursor();
                        Ok(v1::WatchExecutionResponse { revision, event: None, progress: Some(progress) })
                    }
                    Err(status) => Err(status),
                }
            }
        };
        let failed = message.is_err();
        if messages.send(message).await.is_err() || failed {
            return;
        }
    }
}
