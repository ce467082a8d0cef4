"""`drayman pilot`: what it brings, runs, keeps and says."""

import contextlib
import io
import json
import shutil
import subprocess
import tarfile
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from drayman.client import DispatchClient, File, Replica, Rse
from drayman.client.user_secrets import SecretClient
from drayman.testing import LocalStack
from system.pilot_house import House


@pytest.fixture
async def house(stack: LocalStack, tmp_path: Path) -> AsyncIterator[House]:
    async with House(stack, tmp_path) as made:
        yield made


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture
def http(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server, and its folder."""
    folder = tmp_path / "web"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()
    thread.join()
    server.server_close()


async def project(house: House, *replicas: tuple[str, str, dict[str, object]]) -> int:
    """Make a dispatch project: names, URLs, and more of each file."""
    site = f"S{house.mark}"
    async with DispatchClient(house.stack.url, house.stack.token(house.stack.admin[0])) as dispatch:
        await dispatch.create_rse(Rse(site))
        await dispatch.update_replicas([Replica(house.mark, name, site, urls=(url,)) for name, url, _ in replicas])
    async with DispatchClient(house.stack.url, house.token) as dispatch:
        files = [File(house.mark, name, attributes=attributes) for name, _, attributes in replicas]
        return (await dispatch.create_project(files)).project_id


def members(archive: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read().decode() for member in tar}  # type: ignore[union-attr]


# --- inputs and outputs -------------------------------------------------------------------------------------------------


async def test_outputs_and_log_are_their_owners(house: House) -> None:
    script = "echo said; echo made > result; mv result ${OUTPUT0}; pwd"
    task_id = await house.submit(script, house.output())
    out = await house.run(task_id)
    assert ": begins\n" in out
    assert ": finished after " in out
    assert (await house.over(task_id)).state == "done"
    job = await house.job(task_id)
    assert (job.state, job.owner, job.attempt) == ("finished", house.user, 1)
    assert job.fields["transExitCode"] == 0
    made = {file.type: file for file in job.files if file.type in ("output", "log")}
    assert made["output"].size == 5
    assert await house.read(house.dataset(), f"{task_id}.000001", made["output"].name) == b"made\n"
    log = members(await house.read(house.dataset("log"), f"{task_id}.000001", made["log"].name))
    assert log["payload.log"].startswith("said\n")
    assert "command: bash -c" in log["pilot.log"]
    versions = [version async for version in house.registry.versions("outputs", house.dataset())]
    assert {version.upload_user for version in versions} == {house.user}
    assert list(house.scratch.iterdir()) == []


async def test_inputs_from_the_registry_from_replicas_and_by_http(house: House, http: tuple[str, Path]) -> None:
    url, web = http
    (web / "b c").write_text("two")
    (house.folder / "local").write_text("one")
    local = (house.folder / "local").as_uri()
    checked = {"size": 3, "checksum": "md5:b8a9f715dbb64fd5c56e7783c6820a61"}
    project_id = await project(house, ("a", local, {"size": 3}), ("b", f"{url}/b%20c", checked))
    script = "cat ${IN/L} | tr , ' ' > /dev/null; for f in a b; do cat $f; done > ${OUTPUT0}"
    first = await house.submit(script, house.input(f"dispatch:{project_id}"), house.output("mid"), nFilesPerJob=2)
    await house.run(first)
    assert (await house.over(first)).state == "done", await house.jobs(first)
    second = await house.submit(
        "cat ${IN} > ${OUTPUT0}; echo . >> ${OUTPUT0}", house.input(f"outputs/{house.dataset('mid')}/{first}"), house.output("end")
    )  # fmt: skip
    await house.run(second)
    assert (await house.over(second)).state == "done", await house.jobs(second)
    (output,) = [file for file in (await house.job(second)).files if file.type == "output"]
    assert await house.read(house.dataset("end"), str(second), output.name) == b"onetwo.\n"


async def test_an_input_that_is_wrong_fails_its_attempt_and_the_next_one_is_good(house: House) -> None:
    source = house.folder / "source"
    source.write_text("wrong!!")
    project_id = await project(house, ("a", source.as_uri(), {"size": 3}))
    task_id = await house.submit(
        "cat a > ${OUTPUT0}", house.input(f"dispatch:{project_id}"), house.output(), maxAttempt=3
    )
    await house.run(task_id)
    (job, *_) = await house.jobs(task_id)
    assert (job.state, job.fields["pilotErrorCode"]) == ("failed", 1099)
    assert "it has 7 bytes where 3 were expected" in job.fields["pilotErrorDiag"]
    source.write_text("yes")
    await house.run(task_id)
    assert (await house.over(task_id)).state == "done"
    assert [(job.state, job.attempt) for job in await house.jobs(task_id)] == [("failed", 1), ("finished", 2)]


async def test_an_output_that_is_missing_and_one_that_need_not_be(house: House) -> None:
    outputs = (house.output(), house.output("maybe", allowNoOutput=True))
    task_id = await house.submit("if [ ${SN} = 1 ]; then touch ${OUTPUT0}; fi", *outputs, nEvents=2)
    await house.run(task_id, jobs=2)
    good, bad = await house.jobs(task_id)
    assert (good.state, bad.state) == ("finished", "failed")
    assert bad.fields["pilotErrorCode"] == 1165
    assert "did not make user." in bad.fields["pilotErrorDiag"]
    assert (await house.over(task_id)).state == "finished"
    log = next(file for file in bad.files if file.type == "log")
    assert "did not make" in members(await house.read(house.dataset("log"), f"{task_id}.000002", log.name))["pilot.log"]


async def test_an_output_that_leads_out_of_the_folder_is_not_uploaded(house: House) -> None:
    (house.folder / "private").write_text("the pilot's")
    job = await house.failed(await house.submit(f"ln -s {house.folder}/private ${{OUTPUT0}}", house.output()))
    assert job.fields["pilotErrorCode"] == 1137
    assert "leads out of the job's folder" in job.fields["pilotErrorDiag"]


async def test_merge_jobs_without_a_program_put_files_together(house: House) -> None:
    task_id = await house.submit(
        "echo ${SN} > ${OUTPUT0}", house.output(), nEvents=2, mergeOutput=True, nFilesPerMergeJob=2
    )
    await house.run(task_id, jobs=3)
    assert (await house.over(task_id)).state == "done", await house.jobs(task_id)
    merged = (await house.jobs(task_id))[-1]
    assert (merged.kind, merged.state) == ("merge", "finished")
    name = f"{house.dataset()}.000003"
    assert await house.read(house.dataset(), f"{task_id}.000003", name) == b"1\n2\n"


# --- sandboxes and programs -----------------------------------------------------------------------------------------------


async def sandbox(house: House, *names: str) -> str:
    path = house.folder / f"sources.{house.mark}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            content = b"#!/bin/bash\necho of the sandbox > $3\n"
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    return await house.sandboxes.put(path)


async def sandbox_task(house: House, name: str) -> int:
    script = {"type": "constant", "value": f"-a {name} ${{OUTPUT0}}"}
    return await house.submit(
        "", transPath="tool.sh", jobParameters=[script, house.output()], sourceURL="https://here", buildSpec=None
    )


async def test_a_sandbox_brings_the_program(house: House) -> None:
    name = await sandbox(house, "tool.sh", "lib/other")
    task_id = await sandbox_task(house, name)
    await house.run(task_id)
    job = await house.job(task_id)
    assert job.state == "finished", job.fields


@pytest.mark.parametrize("bad", ["../evil", "/evil"])
async def test_a_sandbox_that_leads_out_fails_the_job(house: House, bad: str) -> None:
    name = await sandbox(house, "tool.sh", bad)
    job = await house.failed(await sandbox_task(house, name))
    assert job.fields["pilotErrorCode"] == 1110
    assert name in job.fields["pilotErrorDiag"]
    assert "leads out of the job's folder" in job.fields["pilotErrorDiag"]
    assert not list(house.folder.rglob("evil"))


async def test_a_sandbox_that_is_not_there(house: House) -> None:
    job = await house.failed(await sandbox_task(house, f"sources.{house.mark}-gone.tar.gz"))
    assert job.fields["pilotErrorCode"] == 1110
    assert "gone" in job.fields["pilotErrorDiag"]


async def test_a_program_by_http(house: House, http: tuple[str, Path]) -> None:
    url, web = http
    (web / "tool").write_text("#!/bin/bash\necho fetched > $1\n")
    value = {"type": "constant", "value": "${OUTPUT0}"}
    task_id = await house.submit("", transPath=f"{url}/tool", jobParameters=[value, house.output()])
    await house.run(task_id)
    assert (await house.job(task_id)).state == "finished"
    task_id = await house.submit("", transPath=f"{url}/none", jobParameters=[value, house.output()])
    job = await house.failed(task_id)
    assert job.fields["pilotErrorCode"] == 1110
    assert "404" in job.fields["pilotErrorDiag"]


async def test_containers(house: House) -> None:
    task_id = await house.submit("echo $IMAGE > ${OUTPUT0}; cat ${OUTPUT0}", house.output(), container_name="el9:1")
    job = await house.failed(task_id)
    assert "el9:1" in job.fields["pilotErrorDiag"]
    task_id = await house.submit("echo $IMAGE > ${OUTPUT0}", house.output(), container_name="el9:1")
    await house.run(task_id, "--container", "env IMAGE={image}")
    job = await house.job(task_id)
    (output,) = [file for file in job.files if file.type == "output"]
    assert await house.read(house.dataset(), f"{task_id}.000001", output.name) == b"el9:1\n"


async def test_a_program_that_fails(house: House) -> None:
    job = await house.failed(await house.submit("echo why >&2; exit 7"))
    assert (job.fields["pilotErrorCode"], job.fields["transExitCode"]) == (1305, 7)
    assert (job.fields["exeErrorCode"], job.fields["exeErrorDiag"]) == (7, "why")


# --- limits -----------------------------------------------------------------------------------------------------------------


async def test_limits_of_time_and_signs_of_life(house: House) -> None:
    job = await house.failed(await house.submit("sleep 100"), "--looping", "2")
    assert job.fields["pilotErrorCode"] == 1150
    unlimited = await house.submit("sleep 4", noLoopingCheck=True)
    await house.run(unlimited, "--looping", "2")
    assert (await house.job(unlimited)).state == "finished"


async def test_a_limit_of_memory(house: House) -> None:
    script = "python3 -c 'held = b\"x\" * 300_000_000; import time; time.sleep(60)'"
    job = await house.failed(await house.submit(script, ramCount=100, ramUnit="MB"))
    assert job.fields["pilotErrorCode"] == 1212, job.fields
    assert job.fields["maxRSS"] > 200_000


# --- secrets and metadata ---------------------------------------------------------------------------------------------------


async def test_secrets_come_only_to_who_asks_and_the_pilots_token_to_nobody(house: House) -> None:
    async with SecretClient(house.stack.url, house.token) as secrets:
        await secrets.set("MY_KEY", f"key-{house.mark}")
        await secrets.set("___file___:my.txt", "ZmlsZQ==")
    script = "env > ${OUTPUT0}; echo; ls -l >> ${OUTPUT0}; cat my.txt >> ${OUTPUT0}; true"
    token = house.stack.token(house.worker)
    found = {}
    for use in (True, False):
        task_id = await house.submit(script, house.output(f"env{use}"), useSecrets=use)
        await house.run(task_id, extra={"DRAYMAN_TOKEN": token, "BEARER_TOKEN": token, "SITE_WORD": "inherited"})
        job = await house.job(task_id)
        assert job.state == "finished", job.fields
        (output,) = [file for file in job.files if file.type == "output"]
        found[use] = (await house.read(house.dataset(f"env{use}"), f"{task_id}.000001", output.name)).decode()
        assert f"PandaID={job.job_id}\n" in found[use]
        assert f"jediTaskID={task_id}\n" in found[use]
        assert "SITE_WORD=inherited" in found[use]
        assert token not in found[use]
        assert "DRAYMAN_TOKEN" not in found[use]
    assert f"MY_KEY=key-{house.mark}\n" in found[True]
    assert found[True].endswith("file")
    assert "-rw-------" in found[True]
    assert "MY_KEY" not in found[False]
    assert "my.txt" not in found[False]


async def test_metadata_of_jobs(house: House) -> None:
    contents = {1: '{"good": [1]}', 2: "no json", 3: "", 4: "NaN"}
    lines = [f"[ ${{SN}} != {n} ] || echo {text!r} > userJobMetadata.json" for n, text in contents.items() if text]
    huge = "[ ${SN} != 3 ] || { echo '\"'; head -c 1100000 /dev/zero | tr '\\0' x; echo '\"'; } > userJobMetadata.json"
    task_id = await house.submit("; ".join([*lines, huge, "touch ${OUTPUT0}"]), house.output(), nEvents=4)
    await house.run(task_id, "--parallel", "2", jobs=4)
    assert (await house.over(task_id)).state == "done"
    jobs = await house.jobs(task_id)
    assert [job.state for job in jobs] == ["finished"] * 4
    assert {job_id: value async for job_id, value in house.tasks.metadata(task_id)} == {jobs[0].job_id: {"good": [1]}}
    log = next(file for file in jobs[2].files if file.type == "log")
    text = members(await house.read(house.dataset("log"), f"{task_id}.000003", log.name))["pilot.log"]
    assert "more than 1,000,000 bytes" in text


# --- who gets what -----------------------------------------------------------------------------------------------------------


async def test_an_ordinary_users_pilot_gets_own_jobs_only(house: House) -> None:
    stranger = f"x{house.mark}"
    house.stack.add_user(stranger)
    task_id = await house.submit("true")
    pilot = house.start("--task", str(task_id), "--wait", "1.5", user=stranger)
    assert await pilot.ended_well() == ""
    await house.run(task_id, user=house.user)
    assert (await house.job(task_id)).state == "finished"


async def test_two_pilots_of_one_name_share_the_work(house: House) -> None:
    task_id = await house.submit("sleep 0.3", nEvents=8)
    options = ("--task", str(task_id), "--worker-id", f"w-{house.mark}", "--wait", "2", "--parallel", "2", "--json")
    pilots = [house.start(*options) for _ in range(2)]
    lines = [json.loads(line) for pilot in pilots for line in (await pilot.ended_well()).splitlines()]
    ended = [line["PandaID"] for line in lines if line["event"] == "end"]
    assert len(ended) == len(set(ended)) == 8
    assert {line["state"] for line in lines if line["event"] == "end"} == {"finished"}
    assert (await house.over(task_id)).state == "done"


async def test_the_machines_platform_is_offered(house: House) -> None:
    import platform  # noqa: PLC0415 - its name is a common word here

    task_id = await house.submit("true", architecture=f"#{platform.machine()}")
    nobody = house.start("--task", str(task_id), "--wait", "1", "--platform", "")
    assert await nobody.ended_well() == ""
    await house.run(task_id)
    assert (await house.job(task_id)).state == "finished"


async def test_jobs_that_belong_to_no_task(house: House) -> None:
    from drayman.client.job_values import JobFile, JobSubmission  # noqa: PLC0415 - for this one

    fields = {"transformation": "bash", "jobParameters": "-c 'echo $PandaID > alone.txt'", "prodSourceLabel": "user"}
    file = JobFile("alone.txt", "output", dataset=house.dataset("alone"))
    (submitted,) = await house.jobs_of.submit([JobSubmission(fields, [file])])
    assert submitted.job_id, submitted.error
    await house.start("--jobs", "1", "--wait", "20", user=house.user).ended_well()
    (job,) = await house.jobs_of.get([submitted.job_id], files=True)
    assert job is not None
    assert job.state == "finished", job.fields
    content = await house.read(house.dataset("alone"), str(job.job_id), "alone.txt")
    assert content.decode().strip() == str(job.job_id)


# --- what a pilot says when it cannot work ----------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of its own, which is soon full."""
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], check=False, capture_output=True
    ).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def make_read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def only_line(text: str, *words: str) -> None:
    assert text.count("\n") == 1, text
    for word in ("drayman: ", *words):
        assert word in text


async def test_a_wrong_token(house: House) -> None:
    pilot = house.start("--wait", "1", extra={"DRAYMAN_TOKEN": "wrong"})
    assert (await pilot.end(), pilot.out) == (1, "")
    only_line(pilot.err, "DRAYMAN_TOKEN")


async def test_no_server(house: House) -> None:
    pilot = house.start("--wait", "1", extra={"DRAYMAN_URL": "grpc://127.0.0.1:9"})
    assert (await pilot.end(30), pilot.out) == (1, "")
    only_line(pilot.err, "cannot reach grpc://127.0.0.1:9")


async def test_no_scratch(house: House) -> None:
    shutil.rmtree(house.scratch)
    pilot = house.start("--wait", "1")
    assert (await pilot.end(), pilot.out) == (1, "")
    only_line(pilot.err, "the scratch folder cannot be written: No such file or directory", str(house.scratch))


async def test_a_full_scratch(house: House) -> None:
    script = "head -c 3M /dev/zero > big || exit 5"
    task_id = await house.submit(script, house.output(allowNoOutput=True), nEvents=2)
    with small_disk(house.folder / "small") as disk:
        scratch = ("--scratch", str(disk), "--task", str(task_id))
        # the job's own doing: its folder goes, and with it what filled the disk
        await house.start("--jobs", "2", "--wait", "20", *scratch).ended_well()
        jobs = await house.jobs(task_id)
        assert [(job.state, job.fields["pilotErrorCode"]) for job in jobs] == [("failed", 1305)] * 2
        assert "No space left on device" in jobs[0].fields["exeErrorDiag"]
        assert list(disk.iterdir()) == []
        with contextlib.suppress(OSError):
            (disk / "filler").write_bytes(bytes(3_000_000))
        pilot = house.start(*scratch)
        assert (await pilot.end(), pilot.out) == (1, "")
        only_line(pilot.err, "the scratch folder cannot be written: No space left on device", str(disk))


async def test_a_sandbox_that_does_not_fit(house: House) -> None:
    path = house.folder / f"sources.{house.mark}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo("big")
        member.size = 3_000_000
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    task_id = await sandbox_task(house, await house.sandboxes.put(path))
    with small_disk(house.folder / "small") as disk:
        job = await house.failed(task_id, "--scratch", str(disk))
    assert job.fields["pilotErrorCode"] == 1098
    assert "No space left on device" in job.fields["pilotErrorDiag"]


async def test_a_scratch_that_cannot_be_written(house: House) -> None:
    with small_disk(house.folder / "small") as disk:
        make_read_only(disk)
        pilot = house.start("--wait", "1", "--scratch", str(disk))
        assert (await pilot.end(), pilot.out) == (1, "")
    only_line(pilot.err, "the scratch folder cannot be written: Read-only file system", str(disk))


async def test_a_task_service_that_says_no(house: House) -> None:
    pilot = house.start("--worker-id", "x" * 1001)
    assert (await pilot.end(), pilot.out) == (1, "")
    only_line(pilot.err, "worker_id")
