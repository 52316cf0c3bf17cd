//! A real noxd of the build that is measured, in a directory of its own.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use noxd::{cli::connect, proto::v1};
use tonic::transport::Channel;

/// Starts noxd, and says how long it took until it answered.
pub async fn start(directory: &Path) -> (Child, Channel, Duration) {
    let socket = directory.join("noxd.sock");
    let began = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_noxd"));
    command.args(["serve", "--listen", "none", "--data-dir"]).arg(directory.join("data")).arg("--socket").arg(&socket);
    let noxd = command.env("NOXD_LOG", "warn").stdout(Stdio::null()).spawn().expect("noxd starts");
    let channel = answering(&socket).await;
    (noxd, channel, began.elapsed())
}

async fn answering(socket: &Path) -> Channel {
    loop {
        if let Ok(channel) = connect::socket_channel(socket).await
            && connect::executions(channel.clone()).list_executions(v1::ListExecutionsRequest::default()).await.is_ok()
        {
            return channel;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
