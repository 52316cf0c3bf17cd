//! Who calls, and which request this is.

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tonic::{Request, Status};

use super::{listen::Peer, status::invalid_field};
use crate::{
    engine::requests::RequestId,
    machine::{ids::Actor, workflow::Reason},
};

/// Longest request id in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Who calls: the peer's user on the Unix socket, its address over TCP.
pub fn actor<T>(request: &Request<T>) -> Actor {
    let name = match request.extensions().get::<Peer>() {
        Some(Peer::Unix(Some(uid))) => format!("uid:{uid}"),
        Some(Peer::Tcp(Some(address))) => format!("peer:{}", address.ip()),
        _ => "unknown".into(),
    };
    Actor::Caller(name.into())
}

/// Which request this is, where the client gave it an id (S-SAFE-3).
///
/// # Errors
/// Where the id is too long.
pub fn request_id<M: Serialize>(
    actor: &Actor,
    method: &str,
    request_id: &str,
    body: &M,
) -> Result<Option<RequestId>, Status> {
    if request_id.is_empty() {
        return Ok(None);
    }
    if request_id.len() > MAX_REQUEST_ID_BYTES {
        let words = format!("{} bytes; at most {MAX_REQUEST_ID_BYTES} are allowed", request_id.len());
        return Err(invalid_field("request_id", Reason::LimitExceeded, words));
    }
    let hash = digest(&[actor.as_str().as_bytes(), method.as_bytes(), request_id.as_bytes()]);
    Ok(Some(RequestId { hash, body_hash: digest(&[&body_bytes(body)?]) }))
}

/// The same body gives the same bytes: the message as JSON with sorted keys, since maps have no order of their own, in
/// memory or in protobuf.
fn body_bytes<M: Serialize>(body: &M) -> Result<Vec<u8>, Status> {
    let value = serde_json::to_value(body).and_then(|value| serde_json::to_vec(&value));
    value.map_err(|error| {
        let words = format!("a value of the request is none that it can have: {error}");
        invalid_field("request", Reason::InvalidValue, words)
    })
}

fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    let mut short = [0; 16];
    short.copy_from_slice(&digest[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::ExecuteWorkflowRequest;

    fn body(labels: &[(&str, &str)]) -> ExecuteWorkflowRequest {
        let labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        ExecuteWorkflowRequest { workflow_id: "w".into(), labels, ..ExecuteWorkflowRequest::default() }
    }

    #[test]
    fn the_same_body_is_the_same_request_whatever_the_order_of_its_maps() {
        // S-SAFE-3
        let actor = Actor::from_text("uid:1");
        let id = |actor: &Actor, method: &str, text: &str, body: ExecuteWorkflowRequest| {
            request_id(actor, method, text, &body).expect("short").expect("given")
        };
        let pairs: Vec<(String, String)> = (0..50).map(|i| (format!("k{i}"), format!("v{i}"))).collect();
        let forward: Vec<(&str, &str)> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let backward: Vec<(&str, &str)> = forward.iter().rev().copied().collect();
        let first = id(&actor, "Execute", "r1", body(&forward));
        assert_eq!(first, id(&actor, "Execute", "r1", body(&backward)));
        assert_ne!(first.body_hash, id(&actor, "Execute", "r1", body(&[])).body_hash);
        assert_ne!(first.hash, id(&actor, "Cancel", "r1", body(&forward)).hash, "per method");
        assert_ne!(first.hash, id(&Actor::from_text("uid:2"), "Execute", "r1", body(&forward)).hash, "per caller");
        assert!(request_id(&actor, "Execute", "", &body(&[])).expect("none").is_none());
        assert!(request_id(&actor, "Execute", &"x".repeat(129), &body(&[])).is_err());
    }
}
