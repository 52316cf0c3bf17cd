#!/usr/bin/env python3
"""How to call noxd from Python, with no generated code: the server itself tells what it can do.

    pip install -r requirements.txt

    from python_client import Noxd
    nox = Noxd("127.0.0.1:4690")            # or Noxd("unix:/run/noxd/noxd.sock")

    nox.WorkflowService.CreateWorkflow(workflow={"id": "hello", "tasks": [
        {"id": "greet", "command": {"argv": ["echo", "hello"]}, "timeout": "5s"},
        {"id": "bye", "dependencies": ["greet"], "noop": {}},
    ]})
    execution = nox.WorkflowService.ExecuteWorkflow(workflow_id="hello").execution

    for message in nox.ExecutionService.WatchExecution(execution_id=execution.id, after_revision=0):
        print(message.revision, message.event.WhichOneof("kind"), message.event.task_id)

A request is written as the canonical JSON of its message (times "2026-01-02T03:04:05Z", spans "1.5s", enums by name,
field names as in the .proto files); an answer is a protobuf message; an error is a `grpc.RpcError`, see `Fault`.

Run as a program, this file is also a test: it starts noxd (`$NOXD`) and tells the stories below, over TCP and over the
Unix socket.
"""

import concurrent.futures
import os
import re
import subprocess
import tempfile
import threading
import unittest
import uuid

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status


class Noxd:
    """A noxd to talk to. `nox.WorkflowService.GetWorkflow(workflow_id="x")` is one call."""

    def __init__(self, target, timeout=30):
        # Large workflows and outputs need more than the 4 MiB that grpcio takes by default.
        options = [("grpc.max_receive_message_length", 64 * 1024 * 1024)]
        if target.startswith("unix:"):  # Else grpcio sends the path as the :authority, which servers refuse.
            options.append(("grpc.default_authority", "localhost"))
        self.channel = grpc.insecure_channel(target, options)
        self.pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))
        self.timeout = timeout

    def __getattr__(self, name):
        return self.service("nox.v1." + name)

    def service(self, full_name):
        return Service(self, full_name)


class Service:
    """A service as reflection describes it: its methods are Python methods."""

    def __init__(self, nox, full_name):
        self.nox = nox
        self.descriptor = nox.pool.FindServiceByName(full_name)

    def __getattr__(self, name):
        method = self.descriptor.methods_by_name.get(name)
        if method is None:
            raise AttributeError(f"{self.descriptor.full_name} has no method {name}")
        request_class = message_factory.GetMessageClass(method.input_type)
        response_class = message_factory.GetMessageClass(method.output_type)
        kind = self.nox.channel.unary_stream if method.server_streaming else self.nox.channel.unary_unary
        call = kind(
            f"/{self.descriptor.full_name}/{name}",
            request_serializer=request_class.SerializeToString,
            response_deserializer=response_class.FromString,
        )
        return lambda **fields: call(json_format.ParseDict(fields, request_class()), timeout=self.nox.timeout)


class Fault:
    """What an `RpcError` says: the code, the stable reason to branch on, and each faulty field with its own reason."""

    def __init__(self, error):
        self.code, self.message, self.reason, self.metadata = error.code(), error.details(), None, {}
        self.fields, self.descriptions = [], []
        status = rpc_status.from_call(error)
        for detail in status.details if status else []:
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if detail.Unpack(info):
                assert info.domain == "nox.dev", info.domain
                self.reason, self.metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(bad):
                self.fields = [(v.field, v.reason) for v in bad.field_violations]
                self.descriptions = [v.description for v in bad.field_violations]


def word(message, field="status"):
    """An enum field in a word: RUNNING for WORKFLOW_STATUS_RUNNING."""
    enum = message.DESCRIPTOR.fields_by_name[field].enum_type
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    return enum.values_by_number[getattr(message, field)].name.removeprefix(prefix)


# ---------------------------------------------------------------------------------------------------------------------
# From here on: the test.


class Daemon:
    """A `noxd serve` process with a data directory that outlives it."""

    binary = os.environ.get("NOXD", os.path.join(os.path.dirname(__file__), "../../target/debug/noxd"))

    def __init__(self, directory):
        self.directory, self.log, self.process = directory, [], None

    def start(self):
        socket = os.path.join(self.directory, "noxd.sock")
        self.process = subprocess.Popen(
            [self.binary, "serve", "--data-dir", os.path.join(self.directory, "data"),
             "--listen", "127.0.0.1:0", "--socket", socket, "--log", "info"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        port = concurrent.futures.Future()
        self.reader = threading.Thread(target=self.read, args=(self.process.stderr, port), daemon=True)
        self.reader.start()
        self.targets = {"tcp": f"127.0.0.1:{port.result(timeout=60)}", "unix": f"unix:{socket}"}
        return self

    def read(self, pipe, port):
        with pipe:
            for line in pipe:
                self.log.append(line)
                found = re.search(r"serving .*127\.0\.0\.1:(\d+)", line)
                if found and not port.done():
                    port.set_result(int(found.group(1)))
        if not port.done():
            port.set_exception(RuntimeError("noxd ended early:\n" + "".join(self.log)))

    def connect(self, door):
        nox = Noxd(self.targets[door])
        for answer in nox.service("grpc.health.v1.Health").Watch(service="nox.v1.WorkflowService"):
            if word(answer) == "SERVING":
                return nox
        raise RuntimeError("the health stream ended before SERVING")

    def stop(self, signal="terminate"):
        getattr(self.process, signal)()
        code = self.process.wait(timeout=60)
        self.reader.join(timeout=60)
        return code


def command(name, *argv, **fields):
    return {"id": name, "command": {"argv": list(argv)}, "timeout": "120s", **fields}


def alive(pid):
    """Whether a process runs; a zombie, which only waits for its parent to notice, does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class Stories:
    door = None

    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory(prefix="noxd-")
        cls.daemon = Daemon(cls.directory.name).start()
        cls.nox = cls.daemon.connect(cls.door)

    @classmethod
    def tearDownClass(cls):
        cls.nox.channel.close()
        code = cls.daemon.stop()
        cls.directory.cleanup()
        assert code == 0, "noxd left with {}:\n{}".format(code, "".join(cls.daemon.log))

    # What the stories are told with.

    def create(self, *tasks, **fields):
        definition = {"id": "w-" + uuid.uuid4().hex, "tasks": list(tasks), **fields}
        return self.nox.WorkflowService.CreateWorkflow(workflow=definition).workflow

    def execute(self, workflow, **fields):
        return self.nox.WorkflowService.ExecuteWorkflow(workflow_id=workflow.id, **fields).execution

    def get(self, execution):
        return self.nox.ExecutionService.GetExecution(execution_id=execution.id).execution

    def watch(self, execution, after=0):
        """The events after a revision, to the execution's end."""
        stream = self.nox.ExecutionService.WatchExecution(execution_id=execution.id, after_revision=after)
        try:
            for message in stream:
                if message.HasField("event"):  # Else a bookmark: a revision to resume from.
                    self.assertEqual(message.revision, message.event.revision)
                    yield message.event
        finally:
            stream.cancel()  # Of who stops early, the server should know.

    def until(self, execution, kind, task=""):
        """Waits for an event and returns it."""
        for event in self.watch(execution):
            if event.WhichOneof("kind") == kind and event.task_id == task:
                return event
        self.fail(f"the execution ended without {kind} {task}")

    def event_of_schedule(self, kind, schedule):
        """Waits for an event of a schedule and returns what it says."""
        stream = self.nox.ExecutionService.WatchEvents(after_revision=0)
        try:
            for message in stream:
                if message.event.WhichOneof("kind") == kind:
                    event = getattr(message.event, kind)
                    if event.schedule_id == schedule:
                        return event
        finally:
            stream.cancel()

    def refused(self, code, reason, call, **fields):
        with self.assertRaises(grpc.RpcError) as raised:
            call(**fields)
        fault = Fault(raised.exception)
        self.assertEqual((fault.code.name, fault.reason), (code, reason or fault.reason), fault.message)
        self.assertTrue(fault.reason and fault.message)
        return fault

    def gate(self):
        """A task that waits until the returned function is called."""
        path = os.path.join(self.directory.name, uuid.uuid4().hex)
        os.mkfifo(path)
        pipe = os.open(path, os.O_RDWR)
        self.addCleanup(os.close, pipe)
        return command("gate", "sh", "-c", 'read word < "$0"; echo "$word"', path), lambda: os.write(pipe, b"open\n")

    def watched_to_the_end(self, execution, *kinds):
        self.assertEqual([(e.WhichOneof("kind"), e.task_id) for e in self.watch(execution)], list(kinds))

    # The stories.

    def test_reflection_and_health(self):
        names = set(ProtoReflectionDescriptorDatabase(self.nox.channel).get_services())
        self.assertLessEqual({"nox.v1.WorkflowService", "nox.v1.ExecutionService", "nox.v1.SystemService"}, names)
        health = self.nox.service("grpc.health.v1.Health")
        for service in ["", *(n for n in names if n.startswith("nox."))]:
            self.assertEqual(word(health.Check(service=service)), "SERVING", service)
        info = self.nox.SystemService.GetServerInfo()
        self.assertTrue(info.version and info.store_id)

    def test_create_execute_and_watch_to_the_end(self):
        workflow = self.create(command("greet", "echo", "hello"), {"id": "bye", "dependencies": ["greet"], "noop": {}})
        self.assertEqual((workflow.version, word(workflow)), (1, "READY"))
        execution = self.execute(workflow, labels={"by": "python"})
        self.watched_to_the_end(
            execution, ("execution_started", ""), ("task_started", "greet"), ("task_spawned", "greet"),
            ("task_completed", "greet"), ("task_started", "bye"), ("task_completed", "bye"),
            ("execution_completed", ""))
        execution = self.get(execution)
        self.assertEqual((word(execution), execution.progress, execution.labels["by"]), ("COMPLETED", 100, "python"))
        self.assertEqual([t.output.string_value for t in execution.tasks], ["hello", ""])

    def test_all_faults_of_a_definition_at_once_and_nothing_stored(self):
        service, name = self.nox.WorkflowService, "bad-" + uuid.uuid4().hex
        bad = {"id": name, "tasks": [
            {"id": "a", "noop": {}, "dependencies": ["b"]}, {"id": "b", "noop": {}, "dependencies": ["a"]},
            {"id": "c", "noop": {}, "dependencies": ["nobody"]}, {"id": "c", "noop": {}}, {"id": "d/e", "noop": {}},
            command("f"), command("g", "true", timeout="-1s")]}
        fault = self.refused("INVALID_ARGUMENT", None, service.CreateWorkflow, workflow=bad)
        self.assertEqual(fault.reason, fault.fields[0][1])
        self.assertEqual(dict(fault.fields), {
            "tasks[0].dependencies[0]": "CIRCULAR_DEPENDENCY", "tasks[2].dependencies[0]": "DEPENDENCY_NOT_FOUND",
            "tasks[3].id": "DUPLICATE_TASK_ID", "tasks[4].id": "INVALID_ID",
            "tasks[5].command.argv": "MISSING_VALUE", "tasks[6].timeout": "INVALID_VALUE"})
        found = service.ValidateWorkflow(workflow=bad).violations
        self.assertEqual([(v.field, v.reason) for v in found], fault.fields)
        self.refused("NOT_FOUND", "WORKFLOW_NOT_FOUND", service.GetWorkflow, workflow_id=name)
        self.assertFalse(service.ListWorkflows(text=name).workflows)
        unsupported = {"id": name, "tasks": [{"id": "a", "noop": {}}],
                       "notification_config": {"on_failure": True}}
        fault = self.refused("UNIMPLEMENTED", "NOT_SUPPORTED", service.CreateWorkflow, workflow=unsupported)
        self.assertEqual(fault.fields, [("notification_config", "NOT_SUPPORTED")])

    def test_a_watch_resumes_from_every_revision(self):
        names = ["t1", "t2", "t3", "t4"]
        tasks = [{"id": n, "noop": {}, "dependencies": names[:i]} for i, n in enumerate(names)]
        execution = self.execute(self.create(*tasks), wait="60s")
        events = list(self.watch(execution))
        revisions = [e.revision for e in events]
        self.assertEqual(revisions, sorted(set(revisions)))
        for i, revision in enumerate(revisions):
            self.assertEqual(list(self.watch(execution, revision)), events[i + 1:])
            self.assertEqual(list(self.watch(execution, revision - 1)), events[i:])
        self.refused("OUT_OF_RANGE", "REVISION_UNKNOWN",
                     lambda **f: list(self.nox.ExecutionService.WatchExecution(**f)),
                     execution_id=execution.id, after_revision=2**64 - 1)

    def test_nothing_starts_between_pause_and_resume(self):
        gate, open_gate = self.gate()
        execution = self.execute(self.create(gate, {"id": "after", "dependencies": ["gate"], "noop": {}}))
        self.until(execution, "task_spawned", "gate")
        paused = self.nox.WorkflowService.PauseWorkflow(workflow_id=execution.workflow_id).executions
        self.assertEqual([(e.id, word(e)) for e in paused], [(execution.id, "PAUSED")])
        open_gate()
        self.until(execution, "task_completed", "gate")  # A running attempt finishes all the same.
        self.execute(self.create({"id": "other", "noop": {}}), wait="60s")  # Others go on meanwhile.
        self.assertEqual([word(t) for t in self.get(execution).tasks], ["COMPLETED", "QUEUED"])
        self.nox.WorkflowService.ResumeWorkflow(workflow_id=execution.workflow_id, execution_id=execution.id)
        self.watched_to_the_end(
            execution, ("execution_started", ""), ("task_started", "gate"), ("task_spawned", "gate"),
            ("execution_paused", ""), ("task_completed", "gate"), ("execution_resumed", ""),
            ("task_started", "after"), ("task_completed", "after"), ("execution_completed", ""))

    def test_cancel_ends_the_process(self):
        workflow = self.create(command("sleep", "sleep", "300"), {"id": "never", "dependencies": ["sleep"], "noop": {}})
        execution = self.execute(workflow)
        pid = self.until(execution, "task_spawned", "sleep").task_spawned.pid
        self.assertTrue(alive(pid))
        self.nox.WorkflowService.CancelWorkflow(workflow_id=workflow.id, execution_id=execution.id)
        self.until(execution, "execution_cancelled")
        self.assertFalse(alive(pid))
        execution = self.get(execution)
        self.assertEqual([word(execution)] + [word(t) for t in execution.tasks], ["CANCELLED"] * 3)
        self.refused("FAILED_PRECONDITION", "INVALID_WORKFLOW_STATE",
                     self.nox.WorkflowService.PauseWorkflow, workflow_id=workflow.id, execution_id=execution.id)

    def test_a_repeated_request_has_no_second_effect(self):
        workflow, request_id = self.create({"id": "a", "noop": {}}), uuid.uuid4().hex
        first, second = (self.execute(workflow, request_id=request_id) for _ in range(2))
        self.assertEqual(first.id, second.id)
        self.refused("ALREADY_EXISTS", "REQUEST_ID_REUSED", self.nox.WorkflowService.ExecuteWorkflow,
                     workflow_id=workflow.id, labels={"other": "body"}, request_id=request_id)
        history = self.nox.WorkflowService.ListWorkflowHistory(workflow_id=workflow.id)
        self.assertEqual([e.id for e in history.executions], [first.id])

    def test_execute_and_wait(self):
        self.assertEqual(word(self.execute(self.create({"id": "a", "noop": {}}), wait="60s")), "COMPLETED")
        failed = self.execute(self.create(command("a", "sh", "-c", "echo why >&2; exit 3")), wait="60s")
        error = failed.tasks[0].attempts[0].error
        self.assertEqual((word(failed), failed.error.task_id), ("FAILED", "a"))
        self.assertEqual((error.kind, error.exit_code, error.stderr_tail.strip()), ("EXIT_CODE", 3, "why"))
        gate, open_gate = self.gate()
        execution = self.execute(self.create(gate), wait="0.05s")
        self.assertEqual(word(execution), "RUNNING")
        open_gate()
        self.until(execution, "execution_completed")

    def test_batch(self):
        workflow = self.create({"id": "a", "noop": {}})
        requests = [{"workflow_id": workflow.id, "labels": {"n": "0"}}, {"workflow_id": "no-such"},
                    {"workflow_id": workflow.id, "labels": {"n": "2"}}]
        first, second, third = self.nox.WorkflowService.BatchExecuteWorkflows(requests=requests).results
        self.assertEqual((second.error.code, second.error.reason), (5, "WORKFLOW_NOT_FOUND"))
        for result, n in (first, "0"), (third, "2"):
            self.until(result.execution, "execution_completed")
            self.assertEqual(result.execution.labels["n"], n)

    def test_events_page_by_page(self):
        tasks = [{"id": f"t{i}", "noop": {}} for i in range(5)]
        execution, pages, token = self.execute(self.create(*tasks), wait="60s"), [], ""
        while token or not pages:
            page = self.nox.ExecutionService.ListEvents(execution_id=execution.id, page_size=3, page_token=token)
            pages.append(list(page.events))
            token = page.next_page_token
        self.assertEqual([len(p) for p in pages], [3, 3, 3, 3])  # 2 for the execution, 2 for each task.
        self.assertEqual([e for p in pages for e in p], list(self.watch(execution)))

    def test_output_and_logs(self):
        execution = self.execute(self.create(
            command("json", "echo", '{"answer": [42, "x"]}', output_format="OUTPUT_FORMAT_JSON"),
            command("long", "sh", "-c", "seq 2000"),
            command("both", "sh", "-c", "echo out; echo err >&2")), wait="60s")
        task = lambda name: self.nox.ExecutionService.GetTask(execution_id=execution.id, task_id=name).task
        self.assertEqual(json_format.MessageToDict(task("json").output), {"answer": [42, "x"]})
        self.assertTrue(execution.tasks[1].output_truncated)
        self.assertEqual(task("long").output.string_value, "\n".join(str(i) for i in range(1, 2001)))
        stream = self.nox.ExecutionService.StreamTaskLogs
        pieces = list(stream(execution_id=execution.id, task_id="both", follow=True))
        self.assertEqual({(word(p, "stream"), p.data) for p in pieces}, {("STDOUT", b"out\n"), ("STDERR", b"err\n")})
        rest = stream(execution_id=execution.id, task_id="both", from_offset=pieces[0].next_offset)
        self.assertEqual(list(rest), pieces[1:])

    def test_inputs_an_answer_and_a_rerun(self):
        ask = {"id": "ask", "approval": {"prompt": "Go on?"}}
        say = command("say", "sh", "-c", 'echo "$1"; [ "$NOX_ATTEMPT" = 2 ]', "say", "{{ inputs.n + 1 }}",
                      dependencies=["ask"], when="tasks.ask.output.approved")
        workflow = self.create(ask, say, inputs=[{"name": "n", "parameter_type": "PARAMETER_TYPE_INTEGER",
                                                  "required": True}])
        fault = self.refused("INVALID_ARGUMENT", "INVALID_VALUE", self.nox.WorkflowService.ExecuteWorkflow,
                             workflow_id=workflow.id, inputs={"n": "many"})
        self.assertEqual(fault.fields, [("inputs.n", "INVALID_VALUE")])
        execution = self.execute(workflow, inputs={"n": 41})
        self.until(execution, "approval_requested", "ask")
        service, of_ask = self.nox.ExecutionService, {"execution_id": execution.id, "task_id": "ask"}
        self.assertEqual([b.kind for b in service.ExplainTask(**of_ask).blockers], ["APPROVAL"])
        self.assertEqual([b.kind for b in service.ExplainTask(execution_id=execution.id, task_id="say").blockers],
                         ["DEPENDENCY"])
        service.ResolveApproval(**of_ask, approved=True, comment="yes")
        self.refused("FAILED_PRECONDITION", "NOT_WAITING", service.ResolveApproval, **of_ask, approved=True)
        self.until(execution, "execution_failed")
        plan = service.RerunExecution(execution_id=execution.id, validate_only=True)
        self.assertEqual((list(plan.reused_task_ids), list(plan.redone_task_ids)), (["ask"], ["say"]))
        again = service.RerunExecution(execution_id=execution.id).execution
        self.until(again, "execution_failed")
        again = self.get(again)
        self.assertEqual((again.rerun_of, [t.reused for t in again.tasks]), (execution.id, [True, False]))
        self.assertEqual(json_format.MessageToDict(again.tasks[0].output)["comment"], "yes")

    def test_a_limit_of_an_agent(self):
        agents, agent = self.nox.AgentService, "a-" + uuid.uuid4().hex
        self.assertEqual(agents.SetConcurrencyLimit(agent_id=agent, limit=1).limit.limit, 1)
        gate, open_gate = self.gate()
        execution = self.execute(self.create({**gate, "agent_id": agent}, {"id": "b", "noop": {}, "agent_id": agent}))
        self.until(execution, "task_spawned", "gate")
        blocker, = self.nox.ExecutionService.ExplainTask(execution_id=execution.id, task_id="b").blockers
        self.assertEqual(blocker.kind, "LIMIT")
        self.assertIn("`gate`", blocker.description)
        self.assertIn((agent, 1, 1), [(x.agent_id, x.limit, x.running) for x in agents.ListConcurrencyLimits().limits])
        open_gate()
        self.until(execution, "execution_completed")
        self.assertEqual(agents.SetConcurrencyLimit(agent_id=agent).limit.limit, 0)

    def test_a_template_is_stored_and_made_into_a_workflow_that_runs(self):
        templates, name = self.nox.TemplateService, "t-" + uuid.uuid4().hex
        say = command("say", "echo", "{{greeting}} {{ inputs.who }}", title="To {{greeting}}")
        bye = {"id": "bye", "dependencies": ["say"], "when": "inputs.who == {{greeting}}", "noop": {}}
        template = {
            "id": name, "tasks": [say, bye], "inputs": [{"name": "who", "default_value": "{{times}}"}],
            "parameters": [{"name": "greeting", "required": True, "description": "What is said"},
                           {"name": "times", "parameter_type": "PARAMETER_TYPE_INTEGER", "default_value": 3,
                            "validation_regex": "[1-9]"}]}
        # A placeholder for no parameter, twice: both are told, and nothing is stored.
        template["inputs"][0]["default_value"], bye["id"] = "x{{time}}", "{{byee}}"
        fault = self.refused("INVALID_ARGUMENT", None, templates.CreateTemplate, template=template)
        self.assertEqual({f for f, _ in fault.fields}, {"inputs[0].default_value", "tasks[1].id"})
        self.refused("NOT_FOUND", "TEMPLATE_NOT_FOUND", templates.GetTemplate, template_id=name)
        template["inputs"][0]["default_value"], bye["id"] = "x{{times}}", "bye"
        stored = templates.CreateTemplate(template=template).template
        self.assertEqual((stored.id, stored.version, len(stored.parameters)), (name, 1, 2))
        self.refused("ALREADY_EXISTS", "ALREADY_EXISTS", templates.CreateTemplate, template=template)
        # All faults of the values at once, and nothing is made.
        fault = self.refused("INVALID_ARGUMENT", "MISSING_TEMPLATE_PARAMETER", templates.InstantiateTemplate,
                             template_id=name, parameters={"times": "many", "greting": "hi"}, execute=True)
        self.assertEqual(fault.fields, [("parameters.greeting", "MISSING_TEMPLATE_PARAMETER"),
                                        ("parameters.times", "INVALID_VALUE"), ("parameters.greting", "INVALID_VALUE")])
        self.assertIn("did you mean `greeting`?", fault.descriptions[2])
        # Alone it shows the tasks; what would be a placeholder in a value is text.
        hostile = "{{ inputs.who }}' or true"
        shown = templates.InstantiateTemplate(template_id=name, parameters={"greeting": hostile})
        self.assertEqual([t.id for t in shown.tasks], ["say", "bye"])
        self.assertFalse(shown.HasField("workflow") or shown.HasField("execution"))
        made = templates.InstantiateTemplate(
            template_id=name, parameters={"greeting": hostile}, execute=True, inputs={"who": "ann"}, wait="30s")
        self.assertEqual(made.execution.workflow_id, made.workflow.id)
        self.assertEqual((made.workflow.template.template_id, made.workflow.template.version), (name, 1))
        self.until(made.execution, "execution_completed")
        say, bye = self.get(made.execution).tasks
        self.assertEqual((say.output.string_value, word(bye)), (hostile + " ann", "SKIPPED"))
        templates.DeleteTemplate(template_id=name)
        self.assertEqual(self.nox.WorkflowService.GetWorkflow(workflow_id=made.workflow.id).workflow.template.template_id,
                         name)

    def test_a_schedule_fires_is_paused_triggered_and_told_its_faults(self):
        schedules, name = self.nox.ScheduleService, "s-" + uuid.uuid4().hex
        workflow = self.create({"id": "t", "noop": {}})
        # Every fault at once, each with its column.
        wrong = {"cron": {"expression": "60 22-2 * * *"}, "timezone": "Europe/Berln"}
        for call, fields in [(schedules.PreviewSchedule, {"schedule": wrong}),
                             (schedules.CreateSchedule,
                              {"schedule": {"id": name, "workflow_id": workflow.id, "schedule": wrong}})]:
            fault = self.refused("INVALID_ARGUMENT", "INVALID_CRON_EXPRESSION", call, **fields)
            self.assertEqual([f.split(".")[-1] for f, _ in fault.fields], ["expression", "expression", "timezone"])
            self.assertEqual([d.split(":")[0] for d in fault.descriptions[:2]], ["column 1", "column 4"])
            self.assertIn("Europe/Berlin", fault.descriptions[2])
        self.refused("NOT_FOUND", "SCHEDULE_NOT_FOUND", schedules.GetSchedule, schedule_id=name)
        # A night on which clocks go back.
        nightly = {"cron": {"expression": "30 2 * * *"}, "timezone": "Europe/Berlin"}
        preview = schedules.PreviewSchedule(schedule=nightly, **{"from": "2026-10-24T00:00:00Z"}, count=3)
        self.assertEqual([(f.utc_offset, f.note) for f in preview.firings],
                         [("+02:00", ""), ("+02:00", "first pass"), ("+01:00", "")])
        # One by the clock, which is hours away, and one of each second.
        stored = schedules.CreateSchedule(
            schedule={"id": name, "workflow_id": workflow.id, "schedule": nightly, "labels": {"by": "python"}}).schedule
        self.assertEqual((stored.enabled, stored.version, stored.execution_count), (True, 1, 0))
        first = schedules.PreviewSchedule(schedule=nightly, count=1).firings[0]
        self.assertEqual(stored.next_execution, first.time)
        every = {"id": name + ".every", "workflow_id": workflow.id, "schedule": {"interval": {"interval": "1s"}}}
        begun = schedules.CreateSchedule(schedule=every, request_id=name).schedule
        self.assertEqual(schedules.CreateSchedule(schedule=every, request_id=name).schedule.created_at, begun.created_at)
        fired = self.event_of_schedule("schedule_fired", every["id"])
        execution = self.nox.ExecutionService.GetExecution(execution_id=fired.execution_id).execution
        self.assertEqual((execution.schedule_id, execution.scheduled_for, word(execution, "trigger")),
                         (every["id"], fired.time, "SCHEDULE"))
        # A pause: nothing fires, but for who asks.
        paused = schedules.PauseSchedule(schedule_id=every["id"], note="holiday").schedule
        self.assertEqual((paused.enabled, paused.note, paused.HasField("next_execution")), (False, "holiday", False))
        triggered = schedules.TriggerSchedule(schedule_id=every["id"], request_id=name + "now").execution
        self.assertEqual(schedules.TriggerSchedule(schedule_id=every["id"], request_id=name + "now").execution.id,
                         triggered.id)
        self.assertFalse(triggered.HasField("scheduled_for"))
        self.until(triggered, "execution_completed")
        still = schedules.GetSchedule(schedule_id=every["id"]).schedule
        self.assertEqual(still.execution_count, paused.execution_count + 1)
        resumed = schedules.ResumeSchedule(schedule_id=every["id"]).schedule
        self.assertGreater(resumed.next_execution.ToNanoseconds(), fired.time.ToNanoseconds())
        self.assertEqual({s.id for s in schedules.ListSchedules(workflow_id=workflow.id).schedules}, {name, every["id"]})
        for schedule in (name, every["id"]):
            schedules.DeleteSchedule(schedule_id=schedule)
        self.refused("NOT_FOUND", "SCHEDULE_NOT_FOUND", schedules.TriggerSchedule, schedule_id=name)

    def test_a_pause_survives_sigkill(self):
        with tempfile.TemporaryDirectory(prefix="noxd-") as directory:
            daemon = Daemon(directory).start()
            self.addCleanup(lambda: daemon.process.poll() is None and daemon.stop("kill"))
            nox = self.nox = daemon.connect(self.door)  # `self.nox` of this test alone.
            gate, open_gate = self.gate()
            execution = self.execute(self.create(gate, {"id": "after", "dependencies": ["gate"], "noop": {}}))
            pid = self.until(execution, "task_spawned", "gate").task_spawned.pid
            nox.WorkflowService.PauseWorkflow(workflow_id=execution.workflow_id)
            daemon.stop("kill")
            nox.channel.close()
            self.nox = daemon.start().connect(self.door)
            self.assertFalse(alive(pid))  # What the dead daemon left was ended.
            execution = self.get(execution)
            self.assertEqual([word(execution)] + [word(t) for t in execution.tasks], ["PAUSED", "QUEUED", "PENDING"])
            self.nox.WorkflowService.ResumeWorkflow(workflow_id=execution.workflow_id)
            open_gate()
            self.until(execution, "execution_completed")
            attempts = self.get(execution).tasks[0].attempts
            self.assertEqual([word(a) for a in attempts], ["CANCELLED", "COMPLETED"])
            self.nox.channel.close()
            self.assertEqual(daemon.stop(), 0)


class OverTcp(Stories, unittest.TestCase):
    door = "tcp"


class OverTheUnixSocket(Stories, unittest.TestCase):
    door = "unix"


if __name__ == "__main__":
    unittest.main(verbosity=2)
