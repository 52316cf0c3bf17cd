//! Streams of events: from the engine's watch to the client, with bookmarks while nothing happens.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Api, EventStream, convert::event::EventRenderer, status};
use crate::{engine::watch::Watch, machine::ids::Revision, proto::v1};

/// Messages on their way to one client; who reads slower is served from the store later.
const WINDOW: usize = 64;
/// How long a stream is silent before it says where it is.
const BOOKMARK_AFTER: Duration = Duration::from_secs(10);

/// A stream of a watch. `shape` makes the RPC's message.
pub(super) fn events<M: Send + 'static>(
    api: &Api,
    watch: Watch,
    shape: impl Fn(Revision, Option<v1::Event>) -> M + Send + 'static,
) -> EventStream<M> {
    let (messages, out) = mpsc::channel(WINDOW);
    let stop = api.stop.clone();
    let renderer = EventRenderer::new(api.engine.reads().clone());
    api.streams.spawn(async move {
        tokio::select! {
            () = follow(watch, renderer, &messages, shape) => {}
            // Whoever reads no more wants nothing more.
            () = messages.closed() => {}
            () = stop.cancelled() => {
                let bye = status::status(status::Reason::Draining, "noxd is shutting down; resume from the last revision");
                // A client that does not read is not waited for.
                let _ = messages.try_send(Err(bye));
            }
        }
    });
    Box::pin(ReceiverStream::new(out))
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
