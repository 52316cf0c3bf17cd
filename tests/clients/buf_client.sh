#!/usr/bin/env bash
# How to call noxd from a shell, with server reflection and no .proto files: the main story, told with `buf curl`, once
# over TCP and once over the Unix socket. It starts noxd ($NOXD) itself.
#
#   buf curl --protocol grpc --http2-prior-knowledge -d '{"workflow_id": "hello"}' \
#       http://127.0.0.1:4690/nox.v1.WorkflowService/ExecuteWorkflow
#   buf curl --protocol grpc --http2-prior-knowledge --unix-socket /run/noxd/noxd.sock -d '{"workflow_id": "hello"}' \
#       http://localhost/nox.v1.WorkflowService/ExecuteWorkflow
#
# The same with grpcurl:
#
#   grpcurl -plaintext -d '{"workflow_id": "hello"}' 127.0.0.1:4690 nox.v1.WorkflowService/ExecuteWorkflow
#   grpcurl -plaintext -unix -authority localhost -d '{"workflow_id": "hello"}' /run/noxd/noxd.sock \
#       nox.v1.WorkflowService/ExecuteWorkflow
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
noxd=${NOXD:-$here/../../target/debug/noxd}
for bin in "$here/../../target/clients-node/node_modules/.bin" node_modules/.bin; do
    [[ -x $bin/buf ]] && PATH=$(cd "$bin" && pwd):$PATH
done
command -v buf > /dev/null || { echo "buf is not installed: npm install @bufbuild/buf" >&2; exit 2; }

room=$(mktemp -d -t noxd-XXXXXX)
daemon='' watcher='' passed=0
leave() {
    local code=$?
    [[ -z $watcher ]] || kill "$watcher" 2> /dev/null || true
    [[ -z $daemon ]] || { kill "$daemon"; wait "$daemon"; } 2> /dev/null || true
    if ((code)); then
        echo "noxd said:"; cat "$room/log"
        echo "$passed passed, 1 failed"
    fi
    rm -rf "$room"
    exit "$code"
}
trap leave EXIT

# Call METHOD BODY: one call; a stream is one JSON document after another.
curl=(timeout 60 buf curl --protocol grpc --http2-prior-knowledge)
call() { "${curl[@]}" "${door[@]}" -d "$2" "$url/nox.v1.$1"; }

# Read EXPRESSION: evaluates Python over the JSON documents at stdin (`all`; the first is `it`) and prints the value.
read_json() {
    python3 -c '
import base64, json, sys
text, all, decoder = sys.stdin.read().strip(), [], json.JSONDecoder()
while text:
    it, end = decoder.raw_decode(text)
    all, text = all + [it], text[end:].lstrip()
it = all[0] if all else {}
print(eval(sys.argv[1]))' "$1"
}

# Same WHAT EXPECTED ACTUAL: one asserted step.
same() {
    if [[ $2 != "$3" ]]; then
        echo "FAILED $door_name: $1: expected [$2], got [$3]"
        exit 1
    fi
    echo "ok     $door_name: $1: ${3:0:100}"
    passed=$((passed + 1))
}

# Until EXECUTION KIND: watches an execution until the event comes.
until_event() {
    local stream=$room/stream
    rm -f "$stream" && mkfifo "$stream"
    "${curl[@]}" "${door[@]}" -d "{\"execution_id\": \"$1\", \"after_revision\": 0}" \
        "$url/nox.v1.ExecutionService/WatchExecution" > "$stream" 2> "$room/watch" &
    watcher=$!
    grep -q "\"$2\"" "$stream" || { cat "$room/watch"; echo "FAILED $door_name: no $2"; exit 1; }
    kill "$watcher" 2> /dev/null || true
    wait "$watcher" 2> /dev/null || true
    watcher=''
}

tell() {
    local id answer execution code=0
    door_name=$1 url=$2 door=("${@:3}") id=story-$1
    answer=$(call SystemService/GetServerInfo '{}')
    same "the server's version" True "$(read_json 'len(it["version"]) > 0' <<< "$answer")"

    answer=$(call WorkflowService/CreateWorkflow "{\"workflow\": {\"id\": \"$id\", \"tasks\": [
        {\"id\": \"greet\", \"command\": {\"argv\": [\"echo\", \"hello from $id\"]}, \"timeout\": \"60s\"},
        {\"id\": \"bye\", \"dependencies\": [\"greet\"], \"noop\": {}}]}}")
    same create "$id WORKFLOW_STATUS_READY" "$(read_json 'it["workflow"]["id"] + " " + it["workflow"]["status"]' <<< "$answer")"

    call WorkflowService/CreateWorkflow '{"workflow": {"tasks": [{"id": "a", "noop": {}, "dependencies": ["b"]}]}}' \
        2> "$room/fault" || code=$?
    same "a fault's exit code, INVALID_ARGUMENT (3) * 8" 24 "$code"
    same "a fault's reason, the first field of its ErrorInfo" DEPENDENCY_NOT_FOUND "$(read_json '(lambda info:
        info[2:2 + info[1]].decode())(base64.b64decode(it["details"][0]["value"] + "=="))' < "$room/fault")"

    answer=$(call WorkflowService/ExecuteWorkflow "{\"workflow_id\": \"$id\", \"labels\": {\"by\": \"buf\"}}")
    execution=$(read_json 'it["execution"]["id"]' <<< "$answer")
    answer=$(call ExecutionService/WatchExecution "{\"execution_id\": \"$execution\", \"after_revision\": 0}")
    same "watch to the end" \
        "executionStarted taskStarted taskSpawned taskCompleted taskStarted taskCompleted executionCompleted" \
        "$(read_json '" ".join(k for m in all for k in m.get("event", {}) if k.startswith(("task", "execution")) and not k.endswith("Id"))' <<< "$answer")"
    same "revisions rise" True "$(read_json '[m["revision"] for m in all] == sorted((m["revision"] for m in all), key=int)' <<< "$answer")"
    answer=$(call ExecutionService/GetExecution "{\"execution_id\": \"$execution\"}")
    same get "WORKFLOW_STATUS_COMPLETED hello from $id" \
        "$(read_json 'it["execution"]["status"] + " " + it["execution"]["tasks"][0]["output"]' <<< "$answer")"

    answer=$(call WorkflowService/CreateWorkflow "{\"workflow\": {\"id\": \"$id-long\", \"tasks\": [
        {\"id\": \"sleep\", \"command\": {\"argv\": [\"sleep\", \"300\"]}}]}}")
    answer=$(call WorkflowService/ExecuteWorkflow "{\"workflow_id\": \"$id-long\"}")
    execution=$(read_json 'it["execution"]["id"]' <<< "$answer")
    until_event "$execution" taskSpawned
    local which="{\"workflow_id\": \"$id-long\", \"execution_id\": \"$execution\"}" status='it["executions"][0]["status"]'
    same pause WORKFLOW_STATUS_PAUSED "$(call WorkflowService/PauseWorkflow "$which" | read_json "$status")"
    same resume WORKFLOW_STATUS_RUNNING "$(call WorkflowService/ResumeWorkflow "$which" | read_json "$status")"
    same cancel True "$(call WorkflowService/CancelWorkflow "$which" | read_json '"cancelRequestedAt" in it["executions"][0]')"
    until_event "$execution" executionCancelled
    answer=$(call ExecutionService/GetExecution "{\"execution_id\": \"$execution\"}")
    same "cancelled" "WORKFLOW_STATUS_CANCELLED TASK_STATUS_CANCELLED" \
        "$(read_json 'it["execution"]["status"] + " " + it["execution"]["tasks"][0]["status"]' <<< "$answer")"
}

mkfifo "$room/ready"
"$noxd" serve --data-dir "$room/data" --listen 127.0.0.1:0 --socket "$room/noxd.sock" --log info \
    2> >(tee "$room/log" > "$room/ready") &
daemon=$!
# The line that names the doors is written when they are open; what comes later is read too, so that noxd never waits.
exec 3< "$room/ready"
port=''
while [[ -z $port ]] && read -r -t 60 line <&3; do
    [[ $line =~ serving.*127\.0\.0\.1:([0-9]+) ]] && port=${BASH_REMATCH[1]}
done
[[ -n $port ]] || { echo "noxd did not start"; exit 1; }
cat <&3 > /dev/null &

tell tcp "http://127.0.0.1:$port"
tell unix http://localhost --unix-socket "$room/noxd.sock"
kill "$daemon"
wait "$daemon" || { echo "FAILED noxd left with $?"; exit 1; }
daemon=''
echo "$passed passed, 0 failed"
